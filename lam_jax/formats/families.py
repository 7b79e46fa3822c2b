"""How each family's models lie in files: their config.json and the names of their tensors."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from lam_jax.formats import qwen2_5_vl, qwen3_vl
from lam_jax.formats.names import Entry
from lam_jax.models.config import BackboneConfig
from lam_jax.models.families import FAMILIES, family_of

Dict = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Format:
    """One family's files.

    Attributes:
        architecture: class of transformers.
        config: (text, vision, special ids under our names, tied, dtype of the activations) -> sizes, from the
            dictionaries of a config.json. ValueError: a missing key, or what is not computed here.
        to_hf: (sizes, dtype of the weights) -> the contents of a config.json.
        names: sizes -> the tensors of all weights.
        published: today's name of a tensor in transformers -> that of published files.
        processor: class of transformers that prepares rows.
    """

    architecture: str
    config: Callable[[Dict, Dict, Dict, bool, str], BackboneConfig]
    to_hf: Callable[[Any, str], dict[str, Any]]
    names: Callable[[Any], list[Entry]]
    published: Callable[[str], str]
    processor: str


FORMATS: dict[str, Format] = {
    "qwen2_5_vl": Format(
        "Qwen2_5_VLForConditionalGeneration",
        qwen2_5_vl.from_hf_dicts,
        qwen2_5_vl.to_hf,
        qwen2_5_vl.names,
        qwen2_5_vl.published,
        "Qwen2_5_VLProcessor",
    ),
    "qwen3_vl": Format(
        "Qwen3VLForConditionalGeneration",
        qwen3_vl.from_hf_dicts,
        qwen3_vl.to_hf,
        qwen3_vl.names,
        qwen3_vl.published,
        "Qwen3VLProcessor",
    ),
}


def format_of(config: BackboneConfig) -> Format:
    """The format of a backbone's family."""
    return FORMATS[family_of(config).name]


def known() -> str:
    """What can be loaded, for messages."""
    return ", ".join(f"{FAMILIES[name].title} (model_type {name!r})" for name in FORMATS)
