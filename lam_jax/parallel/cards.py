"""NVIDIA's cards: what each can do at best, and its facts as XLA's compiler for GPUs wants to read them.

Sources. Of each card NVIDIA's public data sheet: peak bf16 of the tensor cores without sparsity, memory, bandwidth,
NVLink or PCIe. Cores, clocks and level 2 cache: NVIDIA's white papers "A100 Tensor Core GPU Architecture", "H100 Tensor
Core GPU Architecture" and "Ada GPU Architecture". Threads, registers and shared memory: the table of technical
specifications by compute capability in NVIDIA's CUDA C++ programming guide. Memory in bytes is what the driver reports.
They are upper limits: nothing here was measured by us.

Between hosts: one adapter a card of 400 Gb/s (DGX H100 and H200 data sheets) or 200 Gb/s (DGX A100 data sheet). No data
sheet says what an L40S or RTX 4090 is built into: 100 Gb/s and 12.5 Gb/s a card are our assumptions, the latter one
adapter of 100 Gb/s for a host of eight.

Latency of collectives: what NCCL itself reckons with when it chooses an algorithm (`src/graph/tuning.cc`, ring,
protocol LL): 3.6 us, and for each of the 2 (n - 1) steps of an all-reduce of n cards 0.47 us over NVLink, 1.0 us over
PCIe and 2.7 us between hosts.
"""

import dataclasses
from typing import ClassVar

from lam_jax.parallel.chips import CHIPS, GB, Chip

# Of a card's memory; jax takes 75 % unless XLA_PYTHON_CLIENT_MEM_FRACTION says so, and CUDA's context needs some.
USABLE = 0.95
KIB, MIB = 2**10, 2**20


@dataclasses.dataclass(frozen=True)
class Architecture:
    """What cards of one compute capability have in common.

    Attributes:
        capability: (major, minor).
        threads: of one multiprocessor at once.
        fp32: units of one multiprocessor.
        shared: bytes of shared memory of a multiprocessor; a block gets a KiB less where it asks for all.
        accelerated: has instructions of its own capability only (wgmma), so code is compiled for "9.0a".
    """

    capability: tuple[int, int]
    threads: int
    fp32: int
    shared: int
    accelerated: bool = False


AMPERE = Architecture((8, 0), threads=2048, fp32=64, shared=164 * KIB)
ADA = Architecture((8, 9), threads=1536, fp32=128, shared=100 * KIB)
HOPPER = Architecture((9, 0), threads=2048, fp32=128, shared=228 * KIB, accelerated=True)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Card(Chip):
    """One card.

    Attributes:
        title: as the driver names it.
        architecture: of its chip.
        memory: bytes, as the driver reports them; `hbm` is the part that a program may use.
        cores: multiprocessors.
        clock: boost, GHz.
        cache: bytes of level 2 cache.
        nvlinks: links to the other cards of its host; 0: they talk over PCIe.
    """

    title: str
    architecture: Architecture
    memory: int
    cores: int
    clock: float
    cache: int
    nvlinks: int = 0
    unit: ClassVar[str] = "card"

    @property
    def target_config(self) -> str:
        """The card as text of XLA's `GpuTargetConfigProto`."""
        kind = self.architecture
        major, minor = kind.capability
        features = "ACCELERATED_FEATURES" if kind.accelerated else "NONE"
        # The versions are those of the CUDA and cuDNN that the code will run under; jax's packages bring newer ones.
        return f"""
            platform_name: "CUDA"
            device_description_str: "{self.title}"
            dnn_version_info {{ major: 9 minor: 10 patch: 0 }}
            gpu_device_info {{
              name: "{self.title}"
              device_vendor: "NVIDIA Corporation"
              platform_version: "Compute Capability {major}.{minor}{"a" if kind.accelerated else ""}"
              cuda_compute_capability {{ major: {major} minor: {minor} feature_extension: {features} }}
              core_count: {self.cores}
              fpus_per_core: {kind.fp32}
              clock_rate_ghz: {self.clock}
              device_memory_size: {self.memory}
              memory_bandwidth: {int(self.hbm_bandwidth)}
              l2_cache_size: {self.cache}
              pcie_bandwidth: {32 * 2**30}
              shared_memory_per_core: {kind.shared}
              shared_memory_per_block: {48 * KIB}
              shared_memory_per_block_optin: {kind.shared - KIB}
              threads_per_core_limit: {kind.threads}
              threads_per_block_limit: 1024
              threads_per_warp: 32
              registers_per_core_limit: 65536
              registers_per_block_limit: 65536
              block_dim_limit_x: 2147483647
              block_dim_limit_y: 65535
              block_dim_limit_z: 65535
              thread_dim_limit_x: 1024
              thread_dim_limit_y: 1024
              thread_dim_limit_z: 64
              device_address_bits: 64
              ecc_enabled: true
              driver_version: "13.0.0"
              runtime_version: "13.0.0"
              compile_time_toolkit_version: "13.0.0"
              dnn_version: "9.10.0"
              device_interconnect_info {{ active_links: {self.nvlinks} }}
            }}
        """


def _card(name: str, tflops: float, memory: int, bandwidth: float, link: float, network: float, **facts) -> Card:
    """A card in the units of its data sheet: teraflops, GB/s, and Gb/s of its network adapter."""
    latency = {"start": 3.6e-6, "hop": 0.47e-6 if facts.get("nvlinks") else 1e-6, "network_hop": 2.7e-6}
    rates = latency | {"flops": tflops * 1e12, "hbm_bandwidth": bandwidth * GB, "link_bandwidth": link * GB}
    known = {"kinds": (facts["title"],), "network_bandwidth": network * GB / 8}
    return Card(name, hbm=USABLE * memory, memory=memory, **known, **rates, **facts)


_A100 = {"architecture": AMPERE, "cores": 108, "clock": 1.41, "cache": 40 * MIB, "nvlinks": 12}
_H100 = {"architecture": HOPPER, "cores": 132, "clock": 1.98, "cache": 50 * MIB, "nvlinks": 18}
_AD102 = {"architecture": ADA, "clock": 2.52}
# The SXM cards of the DGX machines: NVLink of 600 GB/s (A100) and 900 GB/s, half of it in one direction.
CARDS: dict[str, Card] = {
    card.name: card
    for card in (
        _card("a100", 312, 85_100_068_864, 2039.04, 300, 200, title="NVIDIA A100-SXM4-80GB", **_A100),
        _card("a100-40gb", 312, 42_331_013_120, 1555.2, 300, 200, title="NVIDIA A100-SXM4-40GB", **_A100),
        _card("h100", 989.4, 84_942_979_072, 3352.32, 450, 400, title="NVIDIA H100 80GB HBM3", **_H100),
        _card("h200", 989.4, 151_397_597_184, 4800, 450, 400, title="NVIDIA H200", **_H100),
        _card("l40s", 362.05, 46_068 * MIB, 864, 32, 100, title="NVIDIA L40S", cores=142, cache=96 * MIB, **_AD102),
        _card(
            "rtx4090", 165.2, 24_564 * MIB, 1008, 32, 12.5, title="NVIDIA GeForce RTX 4090", cores=128, cache=72 * MIB,
            **_AD102,
        ),
    )
}  # fmt: skip


def chip_of_kind(kind: str) -> Chip | None:
    """The chip or card that jax calls so (`device.device_kind`); None: its figures are not known here."""
    return next((chip for chip in (*CHIPS.values(), *CARDS.values()) if kind in chip.kinds), None)
