"""From what was typed to a typed, checked configuration. Torch-free."""
