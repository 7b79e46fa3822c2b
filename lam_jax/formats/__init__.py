"""Weights on disk: safetensors, checkpoint folders of Hugging Face and of the released code, and agent folders."""
