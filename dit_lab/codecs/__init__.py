"""Pixels to what the model sees, and back."""
