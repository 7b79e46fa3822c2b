"""Pages, tables and plots from a run's results."""
