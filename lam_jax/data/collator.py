"""Examples to batches of a few static shapes, in NumPy.

Training rows are padded and cut on the right (**official:** padded on the left). RL prompts are padded on the left, and
a cut keeps all vision tokens and the chat's header and gives up the oldest text after it (data/cuts.py). B rows, L
length (one of a few buckets), P patches of a row, W attention windows of a row, S patches of a window.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Int

from lam_jax.data.bad_rows import BAD_TEXT, TOO_LARGE, BadRowError, Skip, Skipped, pictures_of
from lam_jax.data.chat import ChatEncoder, Encoded
from lam_jax.data.cuts import Cuts, cut_left, cut_prompt, cut_right
from lam_jax.data.schemas import DataError, Example, ImageSource, image_bytes, require_reference
from lam_jax.data.workers import Decoded, decode_picture, picture_pool
from lam_jax.models.decoding import ImageError
from lam_jax.models.inputs import Batch, Images
from lam_jax.models.positions import image_layout, mrope_positions, windows_in
from lam_jax.models.processor import Grid, ImageSettings, image_tokens, read_grid


@dataclasses.dataclass(frozen=True)
class CollatorConfig:
    """Shapes of the batches.

    Attributes:
      lengths: the buckets; a batch gets the smallest that holds its longest row, longer rows are cut to the largest.
      kind: "train" (whole chats, cut on the right) or "prompt" (chats up to the assistant's header, cut on the left).
      keep_header: a cut prompt keeps its system line and the opening of its first user turn; see `data/cuts.py`.
        False: only the vision tokens and the newest text (**official:**).
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
    keep_header: bool = True

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
class Collated:
    """A batch, the examples of its rows (fewer than rows if it was filled up), what was cut, and bad rows."""

    batch: Batch
    examples: tuple[Example, ...]
    cuts: Cuts
    skipped: tuple[Skipped, ...] = ()


@dataclasses.dataclass(frozen=True)
class Row:
    """An example, ready to be put into a batch: its tokens as they were cut, and its decoded pictures.

    Attributes:
      tokens: before the cut.
    """

    example: Example
    encoded: Encoded
    pictures: tuple[Decoded, ...]
    tokens: int

    @property
    def grids(self) -> list[Grid]:
        """Of the pictures, in patches."""
        return [grid for _, grid in self.pictures]


class Collator:
    """Makes a `Collated` of a list of examples.

    Args:
      encoder: of the tokenizer and model.
      config: shapes.
      workers: processes that decode pictures; 0: this one does.
      skip: what becomes of rows that turn out to be bad; None: they are an error.
    """

    def __init__(self, encoder: ChatEncoder, config: CollatorConfig, workers: int = 0, skip: Skip | None = None):
        self.encoder = encoder
        self.config = config
        self.workers, self.skip = workers, skip
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
            room = image_layout([[image.grid(*image.size)] * config.max_images], vision)
            self.patches = self.patches or room["image_id"].shape[1]
            self.windows = self.windows or windows_in(room)

    def __call__(self, examples: Sequence[Example], rows: int | None = None) -> Collated:
        """The batch of `examples`, filled up to `rows` rows that are padding throughout.

        With `skip`, bad rows are left out, and there is a row of padding more for each; all may be bad.

        Raises:
          BadRowError: without `skip`, a picture cannot be read, or pictures do not fit the row.
          DataError: too many rows are bad.
          ValueError: more examples than `rows`.
        """
        if not examples or len(examples) > (rows or len(examples)):
            raise ValueError(f"Collator: found {len(examples)} examples; expected 1 to {rows or 'any number'}.")
        made, skipped = [], []
        for place, (example, wait) in enumerate([(example, self.begin(example)) for example in examples]):
            try:
                made.append(wait())
            except BadRowError as error:
                if self.skip is None:
                    raise
                skipped.append(Skipped.of(example, error, place))
        if self.skip is not None and skipped:
            self.skip.log(skipped)
        return self.join(made, rows or len(examples), skipped)

    def begin(self, example: Example) -> Callable[[], Row]:
        """Starts decoding a row's pictures, where there are workers; returns what waits for the row.

        Raises:
          BadRowError: when waited for: a picture cannot be read, or the pictures do not fit the row.
        """
        pictures = pictures_of(example)
        if not (self.workers and pictures):
            return lambda: self._row(example, [decode_picture(picture, self.config.image) for picture in pictures])
        wait = picture_pool(self.workers).map(decode_picture, pictures, self.config.image)
        return lambda: self._row(example, wait())

    def join(self, rows: Sequence[Row], total: int, skipped: Sequence[Skipped] = ()) -> Collated:
        """The batch of rows that are ready, filled up to `total`."""
        tokens, mask, valid, response = self._pad([row.encoded for row in rows], total)
        grids = [row.grids for row in rows] + [[] for _ in range(total - len(rows))]
        batch = Batch(
            tokens=tokens,
            mask=mask,
            valid=valid,
            response=response,
            positions=mrope_positions(tokens, mask, grids, self.encoder.config),
            has_image=np.array([bool(row) for row in grids]),
            images=self._images(rows, grids) if any(grids) else None,
        )
        cuts = sum((Cuts(1, row.tokens - len(row.encoded)) for row in rows if row.tokens > len(row.encoded)), Cuts())
        return Collated(batch, tuple(row.example for row in rows), cuts, tuple(skipped))

    def _row(self, example: Example, pictures: Sequence[Decoded]) -> Row:
        encoded, tokens = self.fit(example, [grid for _, grid in pictures])
        return Row(example, encoded, tuple(pictures), tokens)

    def fit(self, example: Example, grids: Sequence[Grid]) -> tuple[Encoded, int]:
        """A row's tokens, cut to the longest bucket, and how many there were; `grids`: of its pictures, in patches.

        Raises:
          BadRowError: the pictures do not fit the row, or a text cannot be tokenized.
        """
        config = self.config
        needed = sum(h * w for _, h, w in grids)
        if len(grids) > config.max_images or needed > self.patches:
            found = f"{len(grids)} images of {needed} patches"
            expected = f"at most {config.max_images} images of {self.patches} patches"
            error = DataError(example.where, "images", found, expected, "Raise max_images and patches.")
            raise BadRowError(example.where, TOO_LARGE, str(error), _first_path(example))
        whole = self._whole(example, grids)
        try:
            return self._cut(whole, config.lengths[-1], example), len(whole)
        except DataError as error:
            raise BadRowError(example.where, TOO_LARGE, str(error), _first_path(example)) from error

    @property
    def is_prompt(self) -> bool:
        """Rows are prompts, not whole chats."""
        return self.config.kind == "prompt"

    def lengths(self, examples: Sequence[Example]) -> Int[np.ndarray, "n"]:
        """Tokens of each row before any cut; of pictures only the size is read, and that only where it matters.

        With `skip`, rows whose size cannot be told are left out.

        Raises:
          DataError: without `skip`, a picture's size cannot be read, or a text cannot be tokenized.
        """
        image = self.config.image

        def grid(example: Example, source: ImageSource) -> Grid:
            if image.size is not None:
                return image.grid(*image.size)
            return read_grid(image_bytes(source, example.where), image, str(example.where))

        found = []
        for example in examples:
            try:
                found.append(len(self._whole(example, [grid(example, source) for source in example.images])))
            except (DataError, ImageError):
                if self.skip is None:
                    raise
        return np.array(found, np.int64)

    def _whole(self, example: Example, grids: Sequence[Grid]) -> Encoded:
        try:
            return self._encode_row(example, grids)
        except DataError as error:
            raise BadRowError(error.where, BAD_TEXT, str(error)) from error
        except (ValueError, TypeError) as error:  # half a surrogate pair, say
            text = f"{example.where}: found a text that cannot be tokenized ({type(error).__name__}: {error})."
            raise BadRowError(example.where, BAD_TEXT, text) from error

    def _encode_row(self, example: Example, grids: Sequence[Grid]) -> Encoded:
        counts, prompt = [image_tokens(grid, self.config.image.merge_size) for grid in grids], self.is_prompt
        messages = example.prompt if prompt else require_reference(example).messages
        return self.encoder.encode(messages, counts, generation_prompt=prompt, places=example.places)

    def _cut(self, row: Encoded, length: int, example: Example) -> Encoded:
        if not self.is_prompt:
            return cut_right(row, length, example)
        if self.config.keep_header:
            return cut_prompt(row, length, example, self.encoder)
        return cut_left(row, length, example)

    def _pad(self, encoded: Sequence[Encoded], rows: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """tokens, mask, valid and response [B, L] of the rows."""
        longest = max(map(len, encoded), default=0)
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

    def _images(self, rows: Sequence[Row], grids: Sequence[Sequence[Grid]]) -> Images:
        layout = _layout(tuple(map(tuple, grids)), self.encoder.config.vision, self.patches, self.windows)
        patches = np.zeros((len(grids), self.patches, self.config.image.patch_dim), np.float32)
        for index, row in enumerate(rows):
            at = 0
            for values, _ in row.pictures:
                patches[index, at : at + len(values)] = values
                at += len(values)
        return Images(patches=patches, **layout)


def _first_path(example: Example) -> str | None:
    return next((picture.path for picture in pictures_of(example)), None)


# Batches of equally sized pictures share one layout; the arrays are read-only because of that.
@functools.lru_cache(maxsize=64)
def _layout(grids, vision, patches, windows) -> dict[str, np.ndarray]:
    layout = image_layout(grids, vision, patches, windows)
    for array in layout.values():
        array.setflags(write=False)
    return layout
