"""Statistics of small samples: numbers in, numbers out. Knows nothing of runs and reports."""
