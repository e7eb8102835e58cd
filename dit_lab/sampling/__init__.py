"""Drawing images from a trained model."""
