"""How the products of `row_products` are cut into programs. Legend: R rows, D in, O out."""

import dataclasses

MOST_ROWS = 256  # more rows are no longer bound by the weights' bytes


@dataclasses.dataclass(frozen=True)
class Tiles:
    """The part of a kernel [D, O] that one program multiplies, and how. All but `splits` are powers of two.

    Attributes:
        columns: of O in a program.
        depth: of D in one step of a program's loop.
        splits: of D over programs, whose partial sums are added afterwards.
        warps: of 32 threads in a program.
        stages: steps whose weights are on their way at once.
        swapped: a step computes the transposed product, so that the columns are its long side: tensor cores of Hopper
            take 64 at once.
    """

    columns: int = 64
    depth: int = 64
    splits: int = 1
    warps: int = 4
    stages: int = 4
    swapped: bool = False


def block_of_rows(rows: int) -> int:
    """Rows of a program: a power of two, 16 at least."""
    return min(max(16, 1 << (rows - 1).bit_length()), MOST_ROWS)


def shared_bytes(tiles: Tiles, rows: int, itemsize: int, kernels: int) -> int:
    """Shared memory that the steps on their way take."""
    block = block_of_rows(rows) + kernels * tiles.columns
    return tiles.stages * tiles.depth * block * itemsize


def choose_tiles(rows: int, inputs: int, outputs: int, itemsize: int = 2, kernels: int = 1) -> Tiles:
    """Tiles for R=rows, D=inputs, O=outputs and `kernels` kernels read side by side."""
    columns = 64 if rows <= 64 else 128
    tiles = Tiles(columns=columns, warps=4 if rows <= 64 else 8)
    if kernels == 1:
        tiles = dataclasses.replace(tiles, splits=_splits(inputs, outputs, tiles))
    while tiles.stages > 2 and shared_bytes(tiles, rows, itemsize, kernels) > SHARED:
        tiles = dataclasses.replace(tiles, stages=tiles.stages - 1)
    while tiles.depth > 16 and shared_bytes(tiles, rows, itemsize, kernels) > SHARED:
        tiles = dataclasses.replace(tiles, depth=tiles.depth // 2)
    return tiles


SHARED = 100 * 2**10  # bytes a program: two of them on each of an H100's multiprocessors, which have 227 KiB
PROGRAMS = 264  # two on each of an H100's 132 multiprocessors


def _splits(inputs: int, outputs: int, tiles: Tiles) -> int:
    """The largest power of two that fills the multiprocessors without leaving a program too short a loop."""
    blocks, steps, splits = -(-outputs // tiles.columns), -(-inputs // tiles.depth), 1
    while blocks * splits * 2 <= PROGRAMS and steps // (splits * 2) >= 4:
        splits *= 2
    return splits
