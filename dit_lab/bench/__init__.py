"""How fast a configuration is on this machine: its training step and the parts of it, sampling,
data and start-up, beside the rate of matrix products that was measured in the same run."""
