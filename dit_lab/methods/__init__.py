"""Training methods: what is added to the loss of an objective."""
