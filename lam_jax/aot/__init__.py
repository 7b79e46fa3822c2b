"""Ahead-of-time check of a pod: the real training programs, compiled for a TPU topology that is not attached."""
