"""What a configuration is refused for, one area each. Torch-free."""
