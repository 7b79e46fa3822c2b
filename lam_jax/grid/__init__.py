"""Grids: many recipes along axes, run one after the other, and the tables that their results make."""
