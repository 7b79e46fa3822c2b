"""One command that measures everything on an accelerator that is at hand for minutes: `__main__`."""
