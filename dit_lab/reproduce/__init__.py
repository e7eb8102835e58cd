"""Reproduction of named experiments and comparison with their recorded results."""
