"""What each command does, called by `dit_lab.cli`."""
