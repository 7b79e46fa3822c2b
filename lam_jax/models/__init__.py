"""Vision-language backbones, and what they share: batches, picture and token processing, positions."""

import logging


def _is_news(record: logging.LogRecord) -> bool:
    """Whether a message of transformers' is worth showing: that torch is missing (said twice) is not, none is used."""
    return "PyTorch was not found" not in str(record.msg)


logging.getLogger("transformers").addFilter(_is_news)
