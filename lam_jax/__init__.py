"""Latent-action reinforcement learning of vision-language agents in JAX (arXiv 2601.07516)."""

__version__ = "0.1.0"
