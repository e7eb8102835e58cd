"""Statistics of small samples, independent of runs and reports."""
