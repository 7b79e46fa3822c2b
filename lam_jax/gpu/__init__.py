"""What only an NVIDIA GPU wants: attention by cuDNN, and kernels for decode steps."""
