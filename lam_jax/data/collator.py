"""Examples to batches of a few static shapes, in NumPy.

Training rows are padded and cut on the right (**official:** padded on the left), RL prompts on the left, where a cut
keeps all vision tokens and gives up the oldest text. B rows, L length (one of a few buckets), P patches of a row, W
attention windows of a row, S patches of a window.
"""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np

from lam_jax.data.chat import ChatEncoder, Encoded
from lam_jax.data.schemas import DataError, Example, ImageSource, image_bytes, require_reference
from lam_jax.models.inputs import Batch, Images
from lam_jax.models.positions import image_layout, mrope_positions
from lam_jax.models.processor import Grid, ImageSettings, image_tokens, process_image


@dataclasses.dataclass(frozen=True)
class CollatorConfig:
    """Shapes of the batches.

    Attributes:
      lengths: the buckets; a batch gets the smallest that holds its longest row, longer rows are cut to the largest.
      kind: "train" (whole chats, cut on the right) or "prompt" (chats up to the assistant's header, cut on the left).
      padding: side of the padding; prompts need "left".
      image: how pictures become patches.
      max_images: pictures that a row may hold.
      patches: P; by default room for `max_images` pictures of `image.size`.
      windows: W; likewise.
    """

    lengths: tuple[int, ...]
    kind: str = "train"
    padding: str = "right"
    image: ImageSettings = dataclasses.field(default_factory=ImageSettings)
    max_images: int = 1
    patches: int | None = None
    windows: int | None = None

    def __post_init__(self):
        if not self.lengths or list(self.lengths) != sorted(set(self.lengths)) or self.lengths[0] < 1:
            raise ValueError(f"CollatorConfig.lengths must be increasing positive lengths, got {self.lengths}.")
        if self.kind not in ("train", "prompt"):
            raise ValueError(f"CollatorConfig.kind must be 'train' or 'prompt', got {self.kind!r}.")
        if self.padding not in ("left", "right"):
            raise ValueError(f"CollatorConfig.padding must be 'left' or 'right', got {self.padding!r}.")
        if self.kind == "prompt" and self.padding != "left":
            raise ValueError("CollatorConfig.padding must be 'left' for kind 'prompt': answers follow on the right.")
        for name in ("max_images", "patches", "windows"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"CollatorConfig.{name} must be at least 1, got {value}.")
        if self.image.size is None and (self.patches is None or self.windows is None):
            raise ValueError("CollatorConfig needs patches and windows unless image.size makes all pictures one size.")


@dataclasses.dataclass(frozen=True)
class Cuts:
    """How much did not fit into the longest bucket."""

    rows: int = 0
    tokens: int = 0

    def __add__(self, other: "Cuts") -> "Cuts":
        return Cuts(self.rows + other.rows, self.tokens + other.tokens)


@dataclasses.dataclass(frozen=True)
class Collated:
    """A batch, the examples of its rows (fewer than rows if it was filled up), and what was cut."""

    batch: Batch
    examples: tuple[Example, ...]
    cuts: Cuts


def cut_right(row: Encoded, length: int, example: Example) -> Encoded:
    """The first `length` tokens.

    Raises:
      DataError: the cut would go through the pictures.
    """
    if len(row) <= length:
        return row
    if not row.valid[length:].all():
        found = f"{int((~row.valid).sum())} vision tokens that do not end within {length} tokens"
        raise DataError(
            example.where, "images", found, "all of them within the row", "Use longer rows or fewer images."
        )
    return row.take(slice(length))


def cut_left(row: Encoded, length: int, example: Example) -> Encoded:
    """`length` tokens: every vision token, and the last of the others.

    Raises:
      DataError: the vision tokens alone fill the row.
    """
    if len(row) <= length:
        return row
    text = np.flatnonzero(row.valid)
    room = length - (len(row) - len(text))
    if room < 1:
        found, fix = f"{len(row) - len(text)} vision tokens", "Use longer prompts or fewer images."
        raise DataError(example.where, "images", found, f"fewer than the prompt's {length} tokens", fix)
    return row.take(np.union1d(np.flatnonzero(~row.valid), text[-room:]))


class Collator:
    """Makes a `Collated` of a list of examples; see `CollatorConfig`."""

    def __init__(self, encoder: ChatEncoder, config: CollatorConfig):
        self.encoder = encoder
        self.config = config
        model = encoder.config
        image, vision = config.image, model.vision
        if (image.patch_size, image.merge_size, image.temporal_patch_size) != (
            vision.patch,
            vision.merge,
            vision.temporal,
        ):
            raise ValueError(f"Collator: image settings {image} do not fit the vision tower {vision}.")
        self.patches, self.windows = config.patches or 0, config.windows or 0
        if image.size is not None:
            hw, _, slots = image_layout([[image.grid(*image.size)] * config.max_images], vision)
            self.patches, self.windows = self.patches or hw.shape[1], self.windows or slots.shape[1]

    def __call__(self, examples: Sequence[Example], rows: int | None = None) -> Collated:
        """The batch of `examples`, filled up to `rows` rows that are padding throughout.

        Raises:
          DataError: a picture cannot be read, or pictures do not fit the row.
          ValueError: more examples than `rows`.
        """
        if not examples or len(examples) > (rows or len(examples)):
            raise ValueError(f"Collator: found {len(examples)} examples; expected 1 to {rows or 'any number'}.")
        total = rows or len(examples)
        pictures = [[self._process(example, source) for source in example.images] for example in examples]
        grids = [[grid for _, grid in row] for row in pictures]
        encoded, cuts = self._encode(examples, grids)
        tokens, mask, valid, response = self._pad(encoded, total)
        grids += [[] for _ in range(total - len(examples))]
        batch = Batch(
            tokens=tokens,
            mask=mask,
            valid=valid,
            response=response,
            positions=mrope_positions(tokens, mask, grids, self.encoder.config),
            has_image=np.array([bool(row) for row in grids]),
            images=self._images(examples, pictures, grids) if any(grids) else None,
        )
        return Collated(batch, tuple(examples), cuts)

    def _process(self, example: Example, source: ImageSource) -> tuple[np.ndarray, Grid]:
        return process_image(image_bytes(source, example.where), self.config.image, str(example.where))

    def _encode(self, examples: Sequence[Example], grids: Sequence[Sequence[Grid]]) -> tuple[list[Encoded], Cuts]:
        longest, prompt = self.config.lengths[-1], self.config.kind == "prompt"
        encoded, cuts = [], Cuts()
        for example, row_grids in zip(examples, grids):
            counts = [image_tokens(grid, self.config.image.merge_size) for grid in row_grids]
            messages = example.prompt if prompt else require_reference(example).messages
            row = self.encoder.encode(messages, counts, generation_prompt=prompt, places=example.places)
            fitted = (cut_left if prompt else cut_right)(row, longest, example)
            if len(fitted) < len(row):
                cuts += Cuts(1, len(row) - len(fitted))
            encoded.append(fitted)
        return encoded, cuts

    def _pad(self, encoded: Sequence[Encoded], rows: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """tokens, mask, valid and response [B, L] of the rows."""
        longest = max(map(len, encoded))
        length = next(bucket for bucket in self.config.lengths if bucket >= longest)
        tokens = np.full((rows, length), self.encoder.config.pad_id, np.int32)
        mask, valid, response = (np.zeros((rows, length), bool) for _ in range(3))
        for index, row in enumerate(encoded):
            place = slice(length - len(row), length) if self.config.padding == "left" else slice(len(row))
            tokens[index, place] = row.tokens
            mask[index, place] = True
            valid[index, place] = row.valid
            response[index, place] = row.response
        return tokens, mask, valid, response

    def _images(self, examples: Sequence[Example], pictures: Sequence, grids: Sequence[Sequence[Grid]]) -> Images:
        for example, row in zip(examples, grids):
            needed = sum(h * w for _, h, w in row)
            if len(row) > self.config.max_images or needed > self.patches:
                found = f"{len(row)} images of {needed} patches"
                expected = f"at most {self.config.max_images} images of {self.patches} patches"
                raise DataError(example.where, "images", found, expected, "Raise max_images and patches.")
        patch_hw, image_id, window_slots = _layout(
            tuple(map(tuple, grids)), self.encoder.config.vision, self.patches, self.windows
        )
        patches = np.zeros((len(grids), self.patches, self.config.image.patch_dim), np.float32)
        for index, row in enumerate(pictures):
            at = 0
            for values, _ in row:
                patches[index, at : at + len(values)] = values
                at += len(values)
        return Images(patches=patches, patch_hw=patch_hw, image_id=image_id, window_slots=window_slots)


# Batches of equally sized pictures share one layout; the arrays are read-only because of that.
@functools.lru_cache(maxsize=64)
def _layout(grids, vision, patches, windows) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    layout = image_layout(grids, vision, patches, windows)
    for array in layout:
        array.setflags(write=False)
    return layout
