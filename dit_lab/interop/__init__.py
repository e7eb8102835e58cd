"""Import and export of weights of other programs, with one adapter per format."""
