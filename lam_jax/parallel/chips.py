"""Peak figures of TPU chips, from Google's public documentation of each; those of NVIDIA's cards are in `cards.py`.

Sources, all under https://cloud.google.com/tpu/docs/: the tables "Key chip specifications" of the pages v5e, v5p and
v6e (peak bf16 compute, HBM bandwidth, and the bidirectional bandwidth of the inter-chip links per chip, of which one
direction is half). They are upper limits: nothing here was measured by us. The memory that a program may use is what
libtpu's compiler names when it refuses a larger one; it is a little less than the documented 16, 95 and 32 GB.

Latency of collectives: "each hop over an ICI link has some intrinsic overhead regardless of the data volume, typically
around 1us" (J. Austin et al., How to Scale Your Model, https://jax-ml.github.io/scaling-book/sharding). A gather takes
the hops of the longest path, an all-reduce twice as many; an axis of fewer than 16 chips (v5e, v6e) or 4 (v5p) has no
link from its last chip to its first. The book's own profile of a gather over 3 hops on a v5e shows 8 us instead of 3,
so these too are lower limits.
"""

import dataclasses
import math
from collections.abc import Iterable, Sequence
from typing import ClassVar


@dataclasses.dataclass(frozen=True)
class Chip:
    """What one chip can do at best.

    Attributes:
        name: as topology names begin, e.g. "v5e".
        flops: bf16 operations a second.
        hbm: bytes of memory that a program may use.
        hbm_bandwidth: bytes a second.
        link_bandwidth: bytes a second over all links between chips, one direction; of cards, within a host.
        network_bandwidth: bytes a second between hosts, one direction, a chip's share; inf: there are only links.
        hop: seconds of one hop of a collective, however little it carries.
        start: seconds of a collective besides its hops.
        network_hop: seconds of a hop between hosts.
        torus: dimensions of the links; 0: all cards of a host are neighbours, in a ring of any order.
        wraps: chips of a dimension from which on its last one has a link to the first.
        kinds: names by which jax knows the device (`device_kind`).
    """

    name: str
    flops: float
    hbm: float
    hbm_bandwidth: float
    link_bandwidth: float
    network_bandwidth: float = math.inf
    hop: float = 1e-6
    start: float = 0.0
    network_hop: float = 0.0
    torus: int = 0
    wraps: int = 0
    kinds: tuple[str, ...] = ()
    unit: ClassVar[str] = "chip"

    def hops(self, extents: Sequence[int]) -> int:
        """Hops of the longest path in a box of chips, `extents` of them along each dimension of the torus."""
        return sum(extent // 2 if self.wraps and extent >= self.wraps else extent - 1 for extent in extents)

    def latency(self, kind: str, extents: Sequence[int], hosts: int = 1) -> float:
        """Seconds of a collective that carries next to nothing.

        Args:
            kind: HLO's name, e.g. "all-reduce", which makes its way twice.
            extents: of the box of chips that take part; of cards, their number.
            hosts: that they lie in.
        """
        outside = (hosts - 1) if self.network_hop else 0
        inside = self.hops(extents) - outside
        return self.start + (2 if kind == "all-reduce" else 1) * (inside * self.hop + outside * self.network_hop)

    def box(self, count: int) -> tuple[int, ...]:
        """The box of `count` chips with the shortest longest path; of cards, their number."""
        return min(_boxes(count, max(1, self.torus)), key=lambda box: (self.hops(box), box))


def box_of(group: Iterable[int], places: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    """The smallest box that holds some devices, whose places in their torus are known; without places, their number."""
    numbers = list(group)
    if not places:
        return (len(numbers),)
    return tuple(max(line) - min(line) + 1 for line in zip(*(places[number] for number in numbers)))


def _boxes(count: int, dimensions: int) -> Iterable[tuple[int, ...]]:
    if dimensions == 1:
        yield (count,)
        return
    for size in (n for n in range(1, count + 1) if count % n == 0):
        yield from ((size, *rest) for rest in _boxes(count // size, dimensions - 1))


GB, GIB = 1e9, 2**30
_SQUARE, _CUBE = {"torus": 2, "wraps": 16}, {"torus": 3, "wraps": 4}
CHIPS: dict[str, Chip] = {
    chip.name: chip
    for chip in (
        Chip("v5e", 197e12, 15.75 * GIB, 819 * GB, 200 * GB, kinds=("TPU v5 lite", "TPU v5e"), **_SQUARE),
        Chip("v5p", 459e12, 95.73 * GIB, 2765 * GB, 600 * GB, kinds=("TPU v5", "TPU v5p"), **_CUBE),
        Chip("v6e", 918e12, 31.24 * GIB, 1638 * GB, 400 * GB, kinds=("TPU v6 lite", "TPU v6e"), **_SQUARE),
    )
}
