"""Composition and validation of configurations, from overrides to typed objects. Torch-free."""
