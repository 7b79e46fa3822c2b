"""A run on disk: its folder, phases, checkpoints, metrics and progress."""
