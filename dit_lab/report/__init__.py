"""What the runs of a sweep say: the answer, in tables, words, plots and files."""
