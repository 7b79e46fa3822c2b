"""The built-in world, whole: pictures, rows, grammar, rubric, captions, tokenizer and base model."""
