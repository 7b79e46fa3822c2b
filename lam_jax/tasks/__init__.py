"""Tasks that an agent is fine-tuned and reinforced on: rows, prompts, splits and reward as one value."""
