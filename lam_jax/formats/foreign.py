"""What a model's config.json says besides a `BackboneConfig`, kept from loading through training to export."""

import copy
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lam_jax.formats.hf_config import from_hf, to_hf
from lam_jax.models.config import BackboneConfig

logger = logging.getLogger("lam_jax")
_DTYPE_KEYS = ("torch_dtype", "dtype")


def read_foreign(folder: Path) -> dict[str, Any] | None:
    """The contents of a folder's config.json, or None where there is none that can be read."""
    try:
        values = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return values if isinstance(values, dict) else None


def over(base: Mapping[str, Any] | None, config: BackboneConfig, dtype: str) -> dict[str, Any]:
    """The contents of config.json for weights stored in `dtype`: those of `base`, but for what training changes.

    Training changes no size, so that `base` says all of `config` already, in the layout and under the names of the
    version that wrote it; what changes are the numbers' types. Where it describes another model, it is left aside.
    """
    ours = to_hf(config, dtype)
    if base is None:
        return ours
    values = copy.deepcopy(dict(base))
    values["compute_dtype"] = config.compute_dtype
    try:
        found = from_hf(values)
    except (ValueError, TypeError, AttributeError, KeyError):
        found = None
    # Which tokens end an answer other files say too: they are no sign of another model.
    ends = {name: value for name, value in vars(config).items() if "eos" in name}
    if found is None or found.changed(**ends) != config:
        logger.warning("The config.json that the model came with describes another model: its further keys are lost.")
        return ours
    parts = [values, *(part for name in ("text_config", "vision_config") if isinstance(part := values.get(name), dict))]
    if found != config:
        for part in parts[:2]:
            part |= {"eos_token_id": ours["eos_token_id"]} if "eos_token_id" in part or part is values else {}
    for part in parts:
        part |= {key: dtype for key in _DTYPE_KEYS if part.get(key) is not None}
    if not any(values.get(key) for key in _DTYPE_KEYS):
        values["torch_dtype"] = dtype
    return values
