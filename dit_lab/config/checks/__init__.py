"""Checks that refuse invalid configurations, by topic. Torch-free."""
