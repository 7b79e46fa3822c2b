"""Rewards: the rubric of the built-in data set, embedding similarity, and a judge behind an HTTP endpoint."""
