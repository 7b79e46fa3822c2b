"""What the sizes of every family have in common; the rest of the library reads these names alone.

A family's own dataclasses (`models/*/config.py`) declare the fields, validate them and add what only they have.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar

import jax.numpy as jnp
import numpy as np

Grid = tuple[int, int, int]  # (t, h, w) of a picture in patches, t = 1 for images
T = TypeVar("T", bound="BackboneConfig")


def positive(config: Any, *names: str) -> None:
    """Raises ValueError where a field of `config` is no positive integer."""
    for name in names:
        value = getattr(config, name)
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"{type(config).__name__}.{name} must be a positive integer, got {value!r}.")


class TextSizes:
    """A text decoder: blocks of grouped-query attention and SwiGLU, with M-RoPE.

    Attributes:
        vocab_size: rows of the embedding.
        width: of the states, d in method.md.
        hidden: of the feed-forward.
        layers: blocks.
        heads: of queries.
        kv_heads: of keys and values.
        head_dim: of each head.
        mrope_sections: frequencies of the three streams of positions; they sum to half of `head_dim`.
        rope_theta: base of the frequencies.
        norm_epsilon: of the RMSNorms.
        tied: whether the output head is the embedding.
    """

    vocab_size: int
    width: int
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: Any  # int; a field in one family, a property in another
    mrope_sections: tuple[int, int, int]
    rope_theta: float
    norm_epsilon: float
    tied: bool

    @property
    def attention_width(self) -> int:
        """Numbers in the queries of all heads."""
        return self.heads * self.head_dim

    @property
    def block_sizes(self) -> dict[str, Any]:
        """Arguments of `DecoderBlock.spec`: of the backbone's blocks and of those of inverse dynamics and policy."""
        return {
            "width": self.width,
            "hidden": self.hidden,
            "heads": self.heads,
            "kv_heads": self.kv_heads,
            "head_dim": self.head_dim,
            "epsilon": self.norm_epsilon,
        }

    def check(self) -> None:
        """Raises ValueError where sizes do not fit each other."""
        positive(self, "vocab_size", "width", "hidden", "layers", "heads", "kv_heads")
        name = type(self).__name__
        if self.heads % self.kv_heads:
            raise ValueError(f"{name}.heads {self.heads} must be a multiple of kv_heads {self.kv_heads}.")
        if 2 * sum(self.mrope_sections) != self.head_dim:
            raise ValueError(
                f"{name}.mrope_sections {self.mrope_sections} must sum to half the head size {self.head_dim}."
            )


class VisionSizes:
    """A vision tower: patches in, one embedding of the text decoder's width for each `merge` x `merge` of them out.

    Attributes:
        width, hidden, layers, heads: of its blocks.
        out_width: of the embeddings.
        patch: side of a patch in pixels.
        temporal: frames in a patch.
        merge: side of a merge group in patches.
        channels: of a pixel.
    """

    width: int
    hidden: int
    layers: int
    heads: int
    out_width: int
    patch: int
    temporal: int
    merge: int
    channels: int

    @property
    def patch_size(self) -> int:
        """Numbers in one flattened patch."""
        return self.channels * self.temporal * self.patch**2

    @property
    def merge_patches(self) -> int:
        """Patches that the merger joins to one token."""
        return self.merge**2

    def picture(self, grid: Grid) -> Mapping[str, np.ndarray]:
        """What the tower has to know of the patches of a picture, by the field of `Images`.

        Arrays [P, ..] with a row for each patch in the processor's order, `patch_hw` among them; and, in a family with
        windows, `window_slots` [W, S], numbers of patches, -1 = padding.
        """
        raise NotImplementedError

    def weights_of(self, patches: int) -> int:
        """Multiplications with weights that a picture of so many patches takes."""
        raise NotImplementedError

    def pairs_of(self, height: int, width: int) -> int:
        """(query, key) pairs that all blocks together attend to in a picture of height x width patches."""
        raise NotImplementedError


class BackboneConfig:
    """A whole backbone: decoder, vision tower and the special tokens it reacts to. Frozen; equal ones hash alike.

    Attributes:
        text, vision: sizes.
        pad_id: fills rows up.
        eos_id: ends a turn of a chat, in rows as in answers: <|im_end|>.
        vision_start_id, vision_end_id, image_id, video_id: of pictures.
        compute_dtype: of the activations.
        other_eos_ids: further tokens that end an answer, as <|endoftext|> does in the published models.
    """

    text: Any  # TextSizes, of the family
    vision: Any  # VisionSizes, of the family
    pad_id: int
    eos_id: int
    vision_start_id: int
    vision_end_id: int
    image_id: int
    video_id: int
    compute_dtype: str
    other_eos_ids: tuple[int, ...]

    def check(self) -> None:
        """Raises ValueError where parts do not fit each other."""
        name, vocab = type(self).__name__, self.text.vocab_size
        if self.vision.out_width != self.text.width:
            raise ValueError(
                f"VisionConfig.out_width {self.vision.out_width} must equal TextConfig.width {self.text.width}."
            )
        for field in ("pad_id", "eos_id", "vision_start_id", "vision_end_id", "image_id", "video_id"):
            if not 0 <= getattr(self, field) < vocab:
                raise ValueError(f"{name}.{field} {getattr(self, field)} is outside the vocabulary of {vocab}.")
        for token in self.other_eos_ids:
            if not 0 <= token < vocab:
                raise ValueError(f"{name}.other_eos_ids holds {token}, outside the vocabulary of {vocab}.")
        if self.compute_dtype not in ("float32", "bfloat16"):
            raise ValueError(f"{name}.compute_dtype must be 'float32' or 'bfloat16', got {self.compute_dtype!r}.")

    @property
    def eos_ids(self) -> tuple[int, ...]:
        """All tokens that end an answer, the end of a turn first."""
        return (self.eos_id, *(other for other in self.other_eos_ids if other != self.eos_id))

    @property
    def dtype(self) -> Any:
        """Activations' dtype."""
        return jnp.dtype(self.compute_dtype)

    def changed(self: T, **changes: Any) -> T:
        """The same with other fields."""
        return dataclasses.replace(self, **changes)  # pyright: ignore[reportArgumentType, reportType]
