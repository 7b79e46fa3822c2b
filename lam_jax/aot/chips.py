"""Peak figures of TPU chips, from Google's public documentation of each; those of NVIDIA's cards are in `cards.py`.

Sources, all under https://cloud.google.com/tpu/docs/: the tables "Key chip specifications" of the pages v5e, v5p and
v6e (peak bf16 compute, HBM bandwidth, and the bidirectional bandwidth of the inter-chip links per chip, of which one
direction is half). They are upper limits: nothing here was measured by us. The memory that a program may use is what
libtpu's compiler names when it refuses a larger one; it is a little less than the documented 16, 95 and 32 GB.
"""

import dataclasses
import math
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
    """

    name: str
    flops: float
    hbm: float
    hbm_bandwidth: float
    link_bandwidth: float
    network_bandwidth: float = math.inf
    unit: ClassVar[str] = "chip"


GB, GIB = 1e9, 2**30
CHIPS: dict[str, Chip] = {
    chip.name: chip
    for chip in (
        Chip("v5e", 197e12, 15.75 * GIB, 819 * GB, 200 * GB),
        Chip("v5p", 459e12, 95.73 * GIB, 2765 * GB, 600 * GB),
        Chip("v6e", 918e12, 31.24 * GIB, 1638 * GB, 400 * GB),
    )
}
