"""A row as the model sees it: its text in the template, with pictures, masks and cuts."""

import io
import json
from collections.abc import Iterator
from itertools import groupby

from PIL import Image

from lam_jax.data.bad_rows import BadRowError, pictures_of
from lam_jax.data.collator import Collator
from lam_jax.data.schemas import DataError, Example, image_bytes
from lam_jax.data.workers import decode_picture
from lam_jax.models.processor import image_tokens

OPEN, CLOSE = "[[", "]]"  # around the response


def show_row(example: Example, collator: Collator) -> Iterator[str]:
    """Lines of text: place, pictures, tokens, cuts, facts, and what the model reads, the response in [[ ]].

    A row that cannot be used says why in place of its tokens.
    """
    yield f"{example.where}  id {example.id}"
    settings = collator.config.image
    grids = []
    for picture in pictures_of(example):
        try:
            _, grid = decode_picture(picture, settings)
        except BadRowError as error:
            yield f"BAD ({error.reason.replace('_', ' ')}): {error.text}"
            return
        width, height = _size(picture.source, example)
        _, h, w = grid
        side = settings.patch_size
        tokens = image_tokens(grid, settings.merge_size)
        name = picture.path or f"{len(picture.source)} bytes"  # pyright: ignore[reportArgumentType]
        yield f"picture   {name}"
        yield f"          {width} x {height} pixels, read as {w * side} x {h * side}: {tokens} tokens"
        grids.append(grid)
    try:
        encoded, whole = collator.fit(example, grids)
    except BadRowError as error:
        yield f"BAD ({error.reason.replace('_', ' ')}): {error.text}"
        return
    config = collator.config
    bucket = next(length for length in config.lengths if length >= len(encoded))
    in_pictures = int((~encoded.valid).sum())
    lost = whole - len(encoded)
    side = "left" if config.kind == "prompt" else "right"
    cut = f"{lost} cut on the {side} (longest bucket {config.lengths[-1]})" if lost else "none cut"
    yield f"tokens    {whole}, {in_pictures} of them around or in pictures; {cut}; padded to {bucket}"
    yield f"response  {int(encoded.response.sum())} tokens, in {OPEN} {CLOSE} below"
    if example.facts is not None:
        facts = json.dumps(example.facts, ensure_ascii=False, default=str)
        yield f"facts     {facts if len(facts) <= 2000 else facts[:2000] + ' ..'}"
    if config.kind == "prompt" and example.has_reference:
        yield f"reference {example.reference}"
    yield "text"
    pad = collator.encoder.config.image_id
    marks = zip(encoded.tokens.tolist(), encoded.response.tolist())
    parts = []
    for (response, is_pad), group in groupby(marks, lambda mark: (mark[1], mark[0] == pad)):
        tokens = [token for token, _ in group]
        text = collator.encoder.tokenizer.decode(tokens[:1] if is_pad else tokens, skip_special_tokens=False)
        text = f"{text} x {len(tokens)}" if is_pad else text
        parts.append(f"{OPEN}{text}{CLOSE}" if response else text)
    yield from (f"  {line}" for line in "".join(parts).split("\n"))


def _size(source: object, example: Example) -> tuple[int, int]:
    """Width and height in pixels as stored."""
    try:
        content = image_bytes(source, example.where)  # pyright: ignore[reportArgumentType]
        with Image.open(io.BytesIO(content)) as opened:
            return opened.size
    except (DataError, OSError):
        return 0, 0
