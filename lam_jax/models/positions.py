"""Positions and image layouts, computed on the host in NumPy (Qwen2.5-VL's `get_rope_index` and `get_window_index`).

Legend: B rows, L length, P patches, W windows, S patches of a window. A grid is (t, h, w) in patches, t = 1 for images.
"""

import functools
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Int

from lam_jax.models.qwen2_5_vl.config import QwenConfig, VisionConfig

Grid = tuple[int, int, int]


def mrope_positions(
    tokens: Int[np.ndarray, "B L"], mask: Bool[np.ndarray, "B L"], grids: Sequence[Sequence[Grid]], config: QwenConfig
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


def _row(tokens: np.ndarray, grids: Sequence[Grid], config: QwenConfig, row: int) -> np.ndarray:
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


@functools.lru_cache(maxsize=1024)
def _one_image(grid: Grid, config: VisionConfig) -> tuple[np.ndarray, np.ndarray]:
    """patch_hw [P, 2] and window slots [W, S] of a single image."""
    _, h, w = grid
    m = config.merge
    cells = np.stack(np.meshgrid(np.arange(h), np.arange(w), indexing="ij"), axis=-1).astype(np.int32)
    patch_hw = cells.reshape(h // m, m, w // m, m, 2).transpose(0, 2, 1, 3, 4).reshape(h * w, 2)
    side = config.window // config.patch
    window = (patch_hw[:, 0] // side) * -(-w // side) + patch_hw[:, 1] // side
    names = np.unique(window)
    slots = np.full((len(names), config.window_patches), -1, np.int32)
    for i, name in enumerate(names):
        members = np.flatnonzero(window == name)
        slots[i, : len(members)] = members
    return patch_hw, slots


def image_layout(
    grids: Sequence[Sequence[Grid]], config: VisionConfig, patches: int | None = None, windows: int | None = None
) -> tuple[Int[np.ndarray, "B P 2"], Int[np.ndarray, "B P"], Int[np.ndarray, "B W S"]]:
    """patch_hw, image_id and window_slots of rows with several images each, padded to `patches` and `windows`.

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
        layouts = [_one_image(tuple(grid), config) for grid in row_grids]
        offsets = np.cumsum([0, *(len(hw) for hw, _ in layouts)])
        slots = [np.where(s >= 0, s + o, -1) for (_, s), o in zip(layouts, offsets)]
        rows.append(([hw for hw, _ in layouts], slots))
    most_patches = max((sum(map(len, hw)) for hw, _ in rows), default=0)
    most_windows = max((sum(map(len, slots)) for _, slots in rows), default=0)
    patches = most_patches if patches is None else patches
    windows = most_windows if windows is None else windows
    if most_patches > patches or most_windows > windows:
        raise ValueError(
            f"A row needs {most_patches} patches in {most_windows} windows, but the batch has room for {patches} in "
            f"{windows}: raise these sizes or shrink the images."
        )
    patch_hw = np.full((len(rows), patches, 2), -1, np.int32)
    image_id = np.full((len(rows), patches), -1, np.int32)
    window_slots = np.full((len(rows), windows, config.window_patches), -1, np.int32)
    for row, (hw, slots) in enumerate(rows):
        if not hw:
            continue
        joined = np.concatenate(hw)
        patch_hw[row, : len(joined)] = joined
        image_id[row, : len(joined)] = np.repeat(np.arange(len(hw)), [len(x) for x in hw])
        joined = np.concatenate(slots)
        window_slots[row, : len(joined)] = joined
    return patch_hw, image_id, window_slots
