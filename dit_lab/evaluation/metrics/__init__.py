"""Numbers that compare generated images with real ones."""
