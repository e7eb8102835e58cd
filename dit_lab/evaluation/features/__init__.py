"""Feature extractors for metrics, and statistics of features."""
