"""Weights of other programs, in and out: one adapter for each format, in both directions."""
