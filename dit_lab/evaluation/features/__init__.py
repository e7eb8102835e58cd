"""What images are turned into before they are compared."""
