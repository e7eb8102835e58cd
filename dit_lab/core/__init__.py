"""Foundations of all packages: types, random numbers, interpolants, processes, costs."""
