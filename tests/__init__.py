"""A package, so that forked commands do not import another package of this name."""
