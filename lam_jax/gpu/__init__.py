"""What only an NVIDIA GPU wants: a fused attention for decode steps."""
