"""Prompts for an agent: questions and messages as examples, and batches of them whatever the sizes of their pictures.

N prompts of a batch.
"""

import functools
import io
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from lam_jax.agents.settings import AgentSettings
from lam_jax.data.chat import ChatEncoder
from lam_jax.data.collator import Collated, Collator, CollatorConfig
from lam_jax.data.schemas import DataError, Example, Message, Where, describe, field, image_bytes
from lam_jax.data.tags import Content, place_pictures
from lam_jax.models.decoding import read_rgb, read_upright
from lam_jax.models.positions import image_layout, windows_in
from lam_jax.models.processor import read_grid

logger = logging.getLogger("lam_jax")
Picture = str | Path | bytes | Image.Image
_PNG_MODES = ("1", "L", "LA", "P", "RGB", "RGBA")  # others become RGB first: a PNG would lose what their levels mean


class PromptCollator:
    """Makes a `Collated` of examples; a prompt that had to be cut is warned of."""

    def __init__(self, encoder: ChatEncoder, settings: AgentSettings):
        self.encoder, self.settings = encoder, settings
        self._collator = functools.cache(self._make)

    def __call__(self, examples: Sequence[Example], rows: int | None = None) -> Collated:
        """The batch of the prompts of `examples`, filled up to `rows`.

        Raises:
            DataError: a picture cannot be read, or the pictures alone are longer than the longest prompt.
        """
        made = self._collator(*self._room(examples))(examples, rows)
        if made.cuts.rows:
            logger.warning(
                "%d of the prompts %s to %s were cut on the left, by %d tokens in all: the longest may have %d.",
                *(made.cuts.rows, examples[0].id, examples[-1].id, made.cuts.tokens, self.settings.prompt_lengths[-1]),
            )
        return made

    def _make(self, pictures: int, patches: int | None, windows: int | None) -> Collator:
        settings = self.settings
        config = CollatorConfig(
            settings.prompt_lengths,
            "prompt",
            "left",
            settings.image,
            pictures,
            patches=patches,
            windows=windows,
            keep_header=settings.keep_prompt_header,
        )
        return Collator(self.encoder, config)

    def _room(self, examples: Sequence[Example]) -> tuple[int, int | None, int | None]:
        """Pictures of a row, and patches and windows where pictures differ in size; each one of a few numbers."""
        pictures = max(1, *(len(example.images) for example in examples))
        image = self.settings.image
        if image.size is not None:
            return pictures, None, None
        grids = [
            [read_grid(image_bytes(source, e.where), image, str(e.where)) for source in e.images] for e in examples
        ]
        room = image_layout(grids, self.encoder.config.vision)
        return pictures, _rounded(room["image_id"].shape[1]), _rounded(windows_in(room))


def _rounded(count: int) -> int:
    """The least of 4, 6, 8, 12, 16, 24.. that is not below `count`: few shapes, few programs to compile."""
    size = 4
    while size < count:
        size = size * 3 // 2 if size & (size - 1) == 0 else size * 4 // 3
    return size


def prompt_of(question: str | Sequence[Message], image: Picture | Sequence[Picture] | None, name: str) -> Example:
    """An example of a question, or of a chat that ends in a user's message, with pictures.

    They stand where the user's `<image>` tags stand, or first where there is none.

    Raises:
        DataError: the chat ends otherwise, a message is malformed, there are more or fewer tags than pictures, or a
            picture cannot be read.
        ImageError: a PIL image cannot be decoded.
    """
    where = Where(name)
    messages = ({"role": "user", "content": question},) if isinstance(question, str) else tuple(question)
    pictures = () if image is None else (image,) if isinstance(image, str | Path | bytes | Image.Image) else image
    sources = tuple(picture_bytes(picture, where, index) for index, picture in enumerate(pictures))
    roles = [field(message, "role", str, where) for message in messages]
    contents = [Content(field(message, "content", str, where)) for message in messages]
    placed, places, _ = place_pictures(roles, contents, len(sources), where, "messages", tags_are_text=True)
    example = Example(name, placed, sources, where=where, places=places)
    if example.messages[-1]["role"] != "user":
        found = f"a last message of the {example.messages[-1]['role']}"
        raise DataError(where, "messages", found, "the user's, which is to be answered", "Leave it out.")
    return example


def picture_bytes(picture: Any, where: Where, index: int) -> bytes:
    """The encoded bytes of a picture: a path, bytes or a PIL image.

    Raises:
        DataError: something else, or a file that cannot be read.
        ImageError: a PIL image cannot be decoded.
    """
    if isinstance(picture, bytes):
        return picture
    if isinstance(picture, str | Path):
        return image_bytes(Path(picture), where)
    if isinstance(picture, Image.Image):
        name, out = f"{where}, image[{index}]", io.BytesIO()
        upright = read_upright(picture, name)
        (upright if upright.mode in _PNG_MODES else read_rgb(upright, name)).save(out, "PNG")
        return out.getvalue()
    fix = "Pass a path, the bytes of a picture file or a PIL image, or a list of such."
    raise DataError(where, f"image[{index}]", describe(picture), "a picture", fix)
