"""Positions and image layouts, computed on the host in NumPy (Qwen2.5-VL's `get_rope_index` and `get_window_index`).

Still pictures have the same positions in Qwen3-VL.
Legend: B rows, L length, P patches, W windows, S patches of a window. A grid is (t, h, w) in patches, t = 1 for images.
"""

import functools
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Int

from lam_jax.models.config import BackboneConfig, Grid, VisionSizes

__all__ = ["Grid", "image_layout", "mrope_positions", "patch_places", "windows_in"]


def mrope_positions(
    tokens: Int[np.ndarray, "B L"],
    mask: Bool[np.ndarray, "B L"],
    grids: Sequence[Sequence[Grid]],
    config: BackboneConfig,
) -> Int[np.ndarray, "B 3 L"]:
    """Positions (t, h, w) of every token; padding gets 1.

    Text advances all three streams; an image's tokens share t and spread over h and w; text goes on after the largest.

    Raises:
        ValueError: a row's image tokens do not match its grids.
    """
    out = np.ones((tokens.shape[0], 3, tokens.shape[1]), np.int32)
    for row in range(tokens.shape[0]):
        real = np.flatnonzero(mask[row])
        out[row][:, real] = _row(tokens[row, real], grids[row], config, row)
    return out


def _row(tokens: np.ndarray, grids: Sequence[Grid], config: BackboneConfig, row: int) -> np.ndarray:
    is_image = tokens == config.image_id
    expected = sum(t * h * w for t, h, w in grids) // config.vision.merge_patches
    if int(is_image.sum()) != expected:
        raise ValueError(
            f"Row {row} holds {int(is_image.sum())} image tokens, but its {len(grids)} image(s) with grids "
            f"{[tuple(g) for g in grids]} need {expected}. Expand every image placeholder to "
            f"h*w/{config.vision.merge_patches} tokens."
        )
    if not grids:
        return np.broadcast_to(np.arange(len(tokens), dtype=np.int32), (3, len(tokens)))
    parts, at, following = [], 0, 0
    for grid in grids:
        start = at + int(np.argmax(is_image[at:]))
        text = np.arange(start - at, dtype=np.int32) + following
        following += len(text)
        image = _image_positions(tuple(grid), config.vision.merge) + following
        parts += [np.broadcast_to(text, (3, len(text))), image]
        following = int(image.max()) + 1
        at = start + image.shape[1]
    rest = np.arange(len(tokens) - at, dtype=np.int32) + following
    parts.append(np.broadcast_to(rest, (3, len(rest))))
    return np.concatenate(parts, axis=1)


@functools.lru_cache(maxsize=1024)
def _image_positions(grid: Grid, merge: int) -> np.ndarray:
    _, h, w = grid
    h, w = h // merge, w // merge
    rows, columns = np.divmod(np.arange(h * w, dtype=np.int32), w)
    return np.stack([np.zeros_like(rows), rows, columns])


def patch_places(height: int, width: int, merge: int) -> Int[np.ndarray, "P 2"]:
    """Row and column of each patch of a picture in the processor's order: merge groups one after the other."""
    cells = np.stack(np.meshgrid(np.arange(height), np.arange(width), indexing="ij"), axis=-1).astype(np.int32)
    groups = cells.reshape(height // merge, merge, width // merge, merge, 2)
    return groups.transpose(0, 2, 1, 3, 4).reshape(height * width, 2)


@functools.lru_cache(maxsize=1024)
def _picture(grid: Grid, config: VisionSizes) -> Mapping[str, np.ndarray]:
    return config.picture(grid)


def image_layout(
    grids: Sequence[Sequence[Grid]], config: VisionSizes, patches: int | None = None, windows: int | None = None
) -> dict[str, np.ndarray]:
    """The fields of `Images` but its patches, of rows with several images each, padded to `patches` and `windows`.

    `image_id` [B, P] and what `config.picture` gives, joined: whole numbers are padded with -1, others with 0.

    Raises:
        ValueError: a grid that cannot be merged, or rows larger than the given sizes.
    """
    rows = []
    for row, row_grids in enumerate(grids):
        for t, h, w in row_grids:
            if t != 1 or h % config.merge or w % config.merge or min(h, w) < 1:
                raise ValueError(
                    f"Row {row} has an image grid {(t, h, w)}; expected t = 1 and h, w multiples of {config.merge}."
                )
        rows.append(_joined([_picture(tuple(grid), config) for grid in row_grids]))
    kinds = _picture((1, config.merge, config.merge), config)
    has_windows = "window_slots" in kinds
    most_patches = max((len(row["image_id"]) for row in rows if row), default=0)
    most_windows = max((len(row["window_slots"]) for row in rows if row and has_windows), default=0)
    patches = most_patches if patches is None else patches
    windows = most_windows if windows is None else windows
    if most_patches > patches or (has_windows and most_windows > windows):
        room = f"{most_patches} patches" + (f" in {most_windows} windows" if has_windows else "")
        given = f"{patches}" + (f" in {windows}" if has_windows else "")
        raise ValueError(
            f"A row needs {room}, but the batch has room for {given}: raise these sizes or shrink the images."
        )
    found = {"patch_hw": kinds["patch_hw"], "image_id": np.zeros(0, np.int32), **kinds}
    return {
        name: _padded(
            [row.get(name) for row in rows],
            (windows if name == "window_slots" else patches, *kind.shape[1:]),
            kind.dtype,
        )
        for name, kind in found.items()
    }


def windows_in(layout: Mapping[str, np.ndarray]) -> int:
    """Windows that a layout has room for; 0 in a family without them."""
    return layout["window_slots"].shape[1] if "window_slots" in layout else 0


def _joined(pictures: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The arrays of a row's pictures one after the other, and which picture each patch is of; {} without pictures."""
    if not pictures:
        return {}
    counts = [len(picture["patch_hw"]) for picture in pictures]
    row = {name: np.concatenate([picture[name] for picture in pictures]) for name in pictures[0]}
    row["image_id"] = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
    if "window_slots" in row:
        offsets = np.cumsum([0, *counts])
        slots = [np.where(s >= 0, s + o, -1) for s, o in zip((p["window_slots"] for p in pictures), offsets)]
        row["window_slots"] = np.concatenate(slots)
    return row


def _padded(rows: Sequence[np.ndarray | None], shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    out = np.full((len(rows), *shape), -1 if np.issubdtype(dtype, np.integer) else 0, dtype)
    for number, row in enumerate(rows):
        if row is not None:
            out[number, : len(row)] = row
    return out
