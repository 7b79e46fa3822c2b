"""What the config.json of every family has in common: keys of special tokens, and how a key is refused."""

from collections.abc import Mapping
from typing import Any

Dict = Mapping[str, Any]

# Our name -> the name in config.json; the defaults are those of transformers' classes.
ID_KEYS = {
    "image_id": ("image_token_id", 151655),
    "video_id": ("video_token_id", 151656),
    "vision_start_id": ("vision_start_token_id", 151652),
    "vision_end_id": ("vision_end_token_id", 151653),
}
# Names of special ids in configs written beside golden vectors.
_SHORT_IDS = {
    "pad": "pad_id",
    "eos": "eos_id",
    "image": "image_id",
    "video": "video_id",
    "vstart": "vision_start_id",
    "vend": "vision_end_id",
}
TEXT_KEYS = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")


def our_ids(ids: Dict) -> dict[str, Any]:
    """Special ids under our names."""
    return {_SHORT_IDS.get(name, name): value for name, value in ids.items()}


def require(config: Dict, keys: tuple[str, ...], where: str, title: str) -> None:
    """Raises ValueError where a key is missing."""
    missing = [key for key in keys if key not in config]
    if missing:
        raise ValueError(f"config.json: {where} lacks {missing}; a {title} config has them all.")


def expect(found: Any, expected: Any, what: str) -> None:
    """Raises ValueError where a setting is not the one that is computed here."""
    if found != expected:
        raise ValueError(f"config.json: {what} is {found!r}, but only {expected!r} is supported.")


def rope_of(text: Dict, theta: float) -> dict[str, Any]:
    """The settings of rotary embeddings, wherever a version of transformers keeps them; `theta`: its default.

    Raises:
        ValueError: embeddings that are scaled.
    """
    rope = {"rope_theta": text.get("rope_theta", theta), **(text.get("rope_scaling") or {})}
    rope |= text.get("rope_parameters") or {}
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind not in ("default", "mrope"):
        raise ValueError(f"config.json: rope type {kind!r} is not supported, expected 'default' or 'mrope'.")
    return rope
