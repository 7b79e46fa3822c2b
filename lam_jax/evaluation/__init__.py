"""Scoring, diversity and the report of a run."""
