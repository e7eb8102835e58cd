"""Named experiments done again, and what they are compared with."""
