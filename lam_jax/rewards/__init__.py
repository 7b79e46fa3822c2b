"""Rewards: verdicts on answers, from a judge behind an HTTP endpoint or by similarity to the reference."""
