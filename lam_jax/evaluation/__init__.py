"""Measuring: answers, scores and diversity of an agent, and what its codes do."""
