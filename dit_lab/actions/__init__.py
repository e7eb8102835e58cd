"""The implementation of each command, called by `dit_lab.cli`."""
