"""Which tokens end an answer: what config.json and generation_config.json list, and which of them ends a turn.

The published Qwen2.5-VL ends answers at <|im_end|> (151645) or <|endoftext|> (151643), in either order of the list.
Rows end their turns in <|im_end|> whatever the order.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lam_jax.models.config import BackboneConfig

TURN_END = "<|im_end|>"
DEFAULT = 151645  # <|im_end|> in Qwen's vocabulary
GENERATION = "generation_config.json"
_TOKENIZER_FILES = ("added_tokens.json", "tokenizer_config.json", "tokenizer.json")


def end_ids_of(*configs: Mapping[str, Any]) -> tuple[int, ...]:
    """Every id that `eos_token_id` of one of the configs names, in order, each once; none where no config has the key.

    Raises:
        ValueError: the key holds something else than an id or a list of ids.
    """
    found: list[int] = []
    for config in configs:
        value = config.get("eos_token_id")
        for one in value if isinstance(value, list | tuple) else [] if value is None else [value]:
            if not isinstance(one, int) or isinstance(one, bool) or one < 0:
                raise ValueError(f"eos_token_id is {value!r}, expected an id such as {DEFAULT}, or a list of ids.")
            found.append(one)
    return tuple(dict.fromkeys(found))


def split_ends(ids: Sequence[int], pad_id: int, turn_end: int | None) -> tuple[int, tuple[int, ...]]:
    """(the token that ends a turn, the others that end an answer).

    Args:
        ids: all that the configs list.
        pad_id: the padding, which is <|endoftext|> in Qwen's vocabulary: it ends a turn only where nothing else does.
        turn_end: the id of <|im_end|> by the tokenizer's files; None: they do not say.
    """
    if turn_end is None:
        turn_end = next((one for one in ids if one != pad_id), ids[0] if ids else DEFAULT)
    return turn_end, tuple(one for one in ids if one != turn_end)


def turn_end_of(folder: Path) -> int | None:
    """The id of <|im_end|> by the tokenizer's files in a folder; None where none of them names it."""
    for name in _TOKENIZER_FILES:
        try:
            values = json.loads((folder / name).read_text(encoding="utf-8"))
        except (OSError, ValueError):  # whoever reads the tokenizer says what is wrong with it
            continue
        if (found := _added(values)) is not None:
            return found
    return None


def _added(values: Any) -> int | None:
    if not isinstance(values, dict):
        return None
    pairs: list[tuple[Any, Any]] = [(values.get(TURN_END), TURN_END)]
    decoder, added = values.get("added_tokens_decoder"), values.get("added_tokens")
    if isinstance(decoder, dict):
        pairs += [(key, one.get("content")) for key, one in decoder.items() if isinstance(one, dict)]
    if isinstance(added, list):
        pairs += [(one.get("id"), one.get("content")) for one in added if isinstance(one, dict)]
    return next((int(key) for key, text in pairs if text == TURN_END and str(key).isdecimal()), None)


def read_generation_config(folder: Path) -> dict[str, Any]:
    """The contents of generation_config.json; empty where there is no such file.

    Raises:
        ValueError: not a JSON object; the message names the file.
    """
    path = folder / GENERATION
    if not path.is_file():
        return {}
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{GENERATION} is no JSON ({error}); fetch it again.") from error
    if not isinstance(values, dict):
        raise ValueError(f"{GENERATION} holds {type(values).__name__}, expected an object; fetch it again.")
    return values


def end_ids(config: BackboneConfig) -> int | list[int]:
    """`eos_token_id` as config.json and generation_config.json hold it."""
    return config.eos_id if len(config.eos_ids) == 1 else list(config.eos_ids)
