"""The built-in world, whole: pictures, rows, grammar, rubric, captions, tokenizer and base model."""

import lam_jax.models  # noqa: F401  before transformers, which it quietens
