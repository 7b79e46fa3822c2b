"""Ahead-of-time check: the real training programs, compiled for TPUs or NVIDIA cards that are not attached."""
