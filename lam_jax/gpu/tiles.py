"""How the products of `row_products` are cut into programs. Legend: R rows, D in, O out."""

import dataclasses

MOST_ROWS = 64  # of more rows XLA's products are as fast (at 256 on an H200), and need no sum afterwards

# An H100: its multiprocessors, and the shared memory of each that the programs on it may take.
PROCESSORS = 132
SHARED = 227 * 2**10


@dataclasses.dataclass(frozen=True)
class Tiles:
    """The part of a kernel [D, O] that one program multiplies, and how. All but `splits` and `stages`: powers of two.

    Attributes:
        columns: of O in a program.
        depth: of D in one step of a program's loop.
        splits: of D over programs, whose partial sums are added afterwards.
        warps: of 32 threads in a program.
        stages: steps whose weights are on their way or at work at once.
        swapped: a step computes the transposed product, so that the columns are its long side: the instruction that
            takes weights from shared memory (wgmma) wants 64 there, else they pass through registers.
        early: the next kernel on the stream may be started at once (from Hopper on); it waits for this one before it
            reads anything, as XLA makes all kernels do that are started so.
    """

    columns: int = 64
    depth: int = 64
    splits: int = 1
    warps: int = 4
    stages: int = 4
    swapped: bool = False
    early: bool = False


def block_of_rows(rows: int) -> int:
    """Rows of a program: a power of two, 16 at least."""
    return min(max(16, 1 << (rows - 1).bit_length()), MOST_ROWS)


def step_bytes(tiles: Tiles, rows: int, itemsize: int) -> int:
    """Shared memory that one step's rows and weights take."""
    return tiles.depth * (block_of_rows(rows) + tiles.columns) * itemsize


def within(tiles: Tiles, rows: int, itemsize: int, shared: int) -> Tiles:
    """With no more stages than a card has shared memory for, in bytes of a program; two at least."""
    return dataclasses.replace(tiles, stages=min(tiles.stages, max(2, shared // step_bytes(tiles, rows, itemsize))))


def choose_tiles(rows: int, inputs: int, outputs: int, itemsize: int = 2) -> Tiles:
    """Tiles for R=rows, D=inputs, O=outputs: the best of `candidates`."""
    return candidates(rows, inputs, outputs, itemsize)[0]


def candidates(rows: int, inputs: int, outputs: int, itemsize: int = 2) -> list[Tiles]:
    """Tiles by what they are expected to cost, the cheapest first.

    The cost is the bytes moved, as if all were weights, over the share of multiprocessors at work until the end: the
    programs should be just under a multiple of `PROCESSORS`. Besides the weights every program reads its share of the
    rows from the L2 cache, twice as fast; the float32 sums are written by some kernel and read by a small one.
    """
    height, depth = block_of_rows(rows), Tiles.depth if itemsize == 2 else 32
    found: list[tuple[float, Tiles]] = []
    for columns in (16, 32, 64, 128):
        # More accumulators than this do not fit the registers.
        if columns > 16 and height * columns * itemsize > 2**16:
            break
        blocks, steps = -(-outputs // columns), -(-inputs // depth)
        for splits in range(1, 17):
            if splits > 1 and inputs < splits * 4 * depth:
                break  # loops too short to keep loads on their way
            programs = blocks * splits
            waves = -(-programs // PROCESSORS)
            longest = -(-steps // splits)
            busy = programs / (waves * PROCESSORS) * steps / (splits * longest)
            sums = 6 * splits * height * outputs * 4
            moved = inputs * outputs * itemsize + blocks * height * inputs * itemsize / 2 + sums
            tiles = Tiles(columns=columns, depth=depth, splits=splits)
            found.append((moved / busy, _filled(tiles, rows, itemsize, waves)))
    return [tiles for _, tiles in sorted(found, key=lambda pair: pair[0])]


def _filled(tiles: Tiles, rows: int, itemsize: int, waves: int) -> Tiles:
    """With as many warps and stages as leave room for all programs at once, or for two on a multiprocessor."""
    wide = block_of_rows(rows) * tiles.columns > 2**13  # takes all registers of a multiprocessor
    beside = 1 if wide else waves if waves <= 4 else 2
    stages = SHARED // beside // step_bytes(tiles, rows, itemsize)
    return dataclasses.replace(tiles, warps=8 if wide else 4, stages=max(2, min(6, stages)))
