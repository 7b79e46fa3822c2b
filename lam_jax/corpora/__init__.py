"""Public data sets as their authors publish them, read into pre-training rows and built into records."""
