"""How the products of `row_products` are cut into programs. Legend: R rows, D in, O out."""

import dataclasses

MOST_ROWS = 256  # more rows are no longer bound by the weights' bytes

# An H100: its multiprocessors, and the shared memory of each that two programs beside each other may take.
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


def step_bytes(tiles: Tiles, rows: int, itemsize: int, kernels: int) -> int:
    """Shared memory that one step's rows and weights take."""
    return tiles.depth * (block_of_rows(rows) + kernels * tiles.columns) * itemsize


def choose_tiles(rows: int, inputs: int, outputs: int, itemsize: int = 2, kernels: int = 1) -> Tiles:
    """Tiles for R=rows, D=inputs, O=outputs and `kernels` kernels read side by side.

    Of those that leave no multiprocessor idle the ones that move the fewest bytes besides the weights: every program
    reads its share of the rows from the L2 cache, and splits write and read float32 partial sums.
    """
    height = block_of_rows(rows)
    best, least = Tiles(columns=16), float("inf")
    for columns in (16, 32, 64, 128):
        # More accumulators than this do not fit the registers.
        if columns > 16 and height * columns * kernels * itemsize > 2**16:
            break
        blocks = -(-outputs // columns)
        for splits in range(1, 17 if kernels == 1 else 2):
            if splits > 1 and inputs < splits * 4 * Tiles.depth:
                break  # loops too short to keep loads on their way
            weights = kernels * inputs * outputs * itemsize
            again = blocks * height * inputs * itemsize + (3 * splits * height * outputs * 4 if splits > 1 else 0)
            cost = (weights + again) / min(1.0, blocks * splits / PROCESSORS)
            if cost < least:
                best, least = Tiles(columns=columns, splits=splits), cost
    wide = height * best.columns * kernels > 2**13
    best = dataclasses.replace(best, warps=8 if wide else 4, depth=Tiles.depth if itemsize == 2 else 32)
    # Wide programs take all registers of a multiprocessor; of others two lie on it, so that one loads while one ends.
    shared = SHARED if wide else SHARED // 2
    return dataclasses.replace(best, stages=max(2, min(6, shared // step_bytes(best, rows, itemsize, kernels))))
