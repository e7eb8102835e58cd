"""From a checked configuration to objects."""
