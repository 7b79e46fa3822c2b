"""The families of backbones: which there are, and which one a configuration is of.

Everything that depends on the family hangs on the configuration's class, here and (for files) in
`lam_jax.formats.families`; nobody else asks.
"""

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lam_jax.models.backbone import Backbone
from lam_jax.models.config import BackboneConfig
from lam_jax.models.qwen2_5_vl.config import QwenConfig
from lam_jax.models.qwen2_5_vl.model import QwenVL
from lam_jax.models.qwen2_5_vl.presets import PRESETS as QWEN2_5_VL_PRESETS
from lam_jax.models.qwen3_vl.config import Qwen3VLConfig
from lam_jax.models.qwen3_vl.model import Qwen3VL
from lam_jax.models.qwen3_vl.presets import PRESETS as QWEN3_VL_PRESETS

if TYPE_CHECKING:  # brings transformers along
    from lam_jax.models.processor import ImageSettings


@dataclasses.dataclass(frozen=True)
class Family:
    """One kind of backbone.

    Attributes:
        name: `model_type` of its config.json.
        title: for messages and model cards.
        config: class of its sizes.
        model: class of its weights.
        presets: named sizes.
        image: fields of `ImageSettings` in which its published models differ from the defaults.
        size: height and width in pixels to which recipes stretch pictures unless told otherwise.
    """

    name: str
    title: str
    config: type[Any]
    model: type[Any]
    presets: Mapping[str, BackboneConfig]
    image: Mapping[str, Any]
    size: tuple[int, int]


_QWEN3_VL_IMAGE = {"min_pixels": 256**2, "max_pixels": 4096**2, "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        Family("qwen2_5_vl", "Qwen2.5-VL", QwenConfig, QwenVL, QWEN2_5_VL_PRESETS, {}, (280, 420)),
        Family("qwen3_vl", "Qwen3-VL", Qwen3VLConfig, Qwen3VL, QWEN3_VL_PRESETS, _QWEN3_VL_IMAGE, (288, 416)),
    )
}
PRESETS: dict[str, BackboneConfig] = {
    name: config for family in FAMILIES.values() for name, config in family.presets.items()
}


def family_of(config: BackboneConfig) -> Family:
    """The family that a configuration is of.

    Raises:
        TypeError: none that is known.
    """
    for family in FAMILIES.values():
        if isinstance(config, family.config):
            return family
    raise TypeError(
        f"{type(config).__name__} is the configuration of no family in lam_jax.models.families: found none of "
        f"{', '.join(family.config.__name__ for family in FAMILIES.values())}."
    )


def spec_of(config: BackboneConfig) -> Backbone:
    """Specs of all weights of a backbone."""
    return family_of(config).model.spec(config)


def image_settings(config: BackboneConfig, size: tuple[int, int] | None = None) -> "ImageSettings":
    """How pictures are prepared for a backbone, where its folder does not say.

    Args:
        config: of the backbone.
        size: height and width in pixels that all are stretched to; None: each keeps its aspect ratio.
    """
    from lam_jax.models.processor import ImageSettings

    vision = config.vision
    cut = {"patch_size": vision.patch, "merge_size": vision.merge, "temporal_patch_size": vision.temporal}
    return ImageSettings(**family_of(config).image, **cut, size=size)
