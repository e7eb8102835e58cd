"""Construction of objects from a checked configuration."""
