"""Sampling of images from a trained model."""
