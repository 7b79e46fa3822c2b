"""What only a GPU wants: kernels for decode steps."""
