"""The machines of a run: watchdog and heartbeats, whether all processes run the same, kept programs."""
