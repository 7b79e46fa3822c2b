"""Sizes of a Qwen2.5-VL model. Frozen, self-validating; everything else is derived."""

import dataclasses
from typing import Any

import jax.numpy as jnp


def _positive(config: Any, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"{type(config).__name__}.{name} must be a positive integer, got {value!r}.")


@dataclasses.dataclass(frozen=True)
class TextConfig:
    """The text decoder (Qwen2.5, with M-RoPE)."""

    vocab_size: int
    width: int
    hidden: int  # feed-forward
    layers: int
    heads: int
    kv_heads: int
    mrope_sections: tuple[int, int, int]
    rope_theta: float = 1e6
    norm_epsilon: float = 1e-6
    tied: bool = True

    def __post_init__(self):
        _positive(self, "vocab_size", "width", "hidden", "layers", "heads", "kv_heads")
        if self.width % self.heads:
            raise ValueError(f"TextConfig.width {self.width} must be a multiple of heads {self.heads}.")
        if self.heads % self.kv_heads:
            raise ValueError(f"TextConfig.heads {self.heads} must be a multiple of kv_heads {self.kv_heads}.")
        if 2 * sum(self.mrope_sections) != self.head_dim:
            raise ValueError(
                f"TextConfig.mrope_sections {self.mrope_sections} must sum to half the head size {self.head_dim}."
            )

    @property
    def head_dim(self) -> int:
        """Size of one attention head."""
        return self.width // self.heads

    @property
    def block_sizes(self) -> dict[str, Any]:
        """Arguments of `DecoderBlock.spec`."""
        return {
            "width": self.width,
            "hidden": self.hidden,
            "heads": self.heads,
            "kv_heads": self.kv_heads,
            "head_dim": self.head_dim,
            "epsilon": self.norm_epsilon,
        }


@dataclasses.dataclass(frozen=True)
class VisionConfig:
    """The vision tower: windowed attention except in `full_layers`, then a merger of `merge` x `merge` patches."""

    width: int
    hidden: int
    layers: int
    heads: int
    full_layers: tuple[int, ...]
    window: int  # pixels
    out_width: int
    patch: int = 14
    temporal: int = 2
    merge: int = 2
    channels: int = 3

    def __post_init__(self):
        _positive(self, "width", "hidden", "layers", "heads", "window", "out_width", "patch", "temporal", "merge")
        if self.width % self.heads or (self.width // self.heads) % 4:
            raise ValueError(f"VisionConfig.width {self.width} must give each of {self.heads} heads a multiple of 4.")
        if self.window % (self.patch * self.merge):
            raise ValueError(
                f"VisionConfig.window {self.window} must be a multiple of {self.patch * self.merge} pixels."
            )
        if any(not 0 <= i < self.layers for i in self.full_layers):
            raise ValueError(f"VisionConfig.full_layers {self.full_layers} must lie in [0, {self.layers}).")

    @property
    def patch_size(self) -> int:
        """Numbers in one flattened patch (1176 in every released model)."""
        return self.channels * self.temporal * self.patch**2

    @property
    def window_patches(self) -> int:
        """Patches of a full attention window."""
        return (self.window // self.patch) ** 2

    @property
    def merge_patches(self) -> int:
        """Patches that the merger joins to one token."""
        return self.merge**2


@dataclasses.dataclass(frozen=True)
class QwenConfig:
    """A whole Qwen2.5-VL: decoder, vision tower and the special tokens it reacts to.

    Attributes:
        text, vision: sizes.
        pad_id: fills rows up.
        eos_id: ends a turn of a chat, in rows as in answers: <|im_end|>.
        vision_start_id, vision_end_id, image_id, video_id: of pictures.
        compute_dtype: of the activations.
        other_eos_ids: further tokens that end an answer, as <|endoftext|> does in the published models.
    """

    text: TextConfig
    vision: VisionConfig
    pad_id: int = 151643
    eos_id: int = 151645
    vision_start_id: int = 151652
    vision_end_id: int = 151653
    image_id: int = 151655
    video_id: int = 151656
    compute_dtype: str = "float32"
    other_eos_ids: tuple[int, ...] = ()

    def __post_init__(self):
        if self.vision.out_width != self.text.width:
            raise ValueError(
                f"VisionConfig.out_width {self.vision.out_width} must equal TextConfig.width {self.text.width}."
            )
        for name in ("pad_id", "eos_id", "vision_start_id", "vision_end_id", "image_id", "video_id"):
            if not 0 <= getattr(self, name) < self.text.vocab_size:
                raise ValueError(
                    f"QwenConfig.{name} {getattr(self, name)} is outside the vocabulary of {self.text.vocab_size}."
                )
        for name in self.other_eos_ids:
            if not 0 <= name < self.text.vocab_size:
                raise ValueError(
                    f"QwenConfig.other_eos_ids holds {name}, outside the vocabulary of {self.text.vocab_size}."
                )
        if self.compute_dtype not in ("float32", "bfloat16"):
            raise ValueError(f"QwenConfig.compute_dtype must be 'float32' or 'bfloat16', got {self.compute_dtype!r}.")

    @property
    def eos_ids(self) -> tuple[int, ...]:
        """All tokens that end an answer, the end of a turn first."""
        return (self.eos_id, *(other for other in self.other_eos_ids if other != self.eos_id))

    @property
    def dtype(self) -> Any:
        """Activations' dtype."""
        return jnp.dtype(self.compute_dtype)
