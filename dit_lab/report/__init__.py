"""Reports on runs and sweeps: analysis, tables, sentences, plots and files."""
