"""Compiles one program and says what it needs: memory, operations, collectives, and an estimate of its time."""

import dataclasses
import math
import re
import resource
from collections.abc import Iterator, Sequence
from importlib import metadata
from typing import Any

import jax
from jax.interpreters import partial_eval

from lam_jax.aot.abstract import bytes_per_chip
from lam_jax.aot.compilers import compiling_for
from lam_jax.aot.decode import DecodeStep, decode_step
from lam_jax.aot.flops import count_flops, kernel_flops
from lam_jax.aot.programs import Program, Setting, build
from lam_jax.aot.topology import hosts_of
from lam_jax.aot.work import ChipWork, chip_work
from lam_jax.parallel.chips import Chip, box_of
from lam_jax.parallel.collectives import Collective, collectives
from lam_jax.parallel.mesh import places_of


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes on one chip while the program runs.

    Attributes:
        arguments: inputs that the program reads, as laid out on the chip.
        beside: what else the phase keeps there meanwhile, e.g. the optimiser state during a rollout.
        outputs: that do not take the place of donated inputs.
        temporaries: the program's own.
        code: the program itself.
    """

    arguments: int
    beside: int
    outputs: int
    temporaries: int
    code: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.arguments + self.beside + self.outputs + self.temporaries + self.code


@dataclasses.dataclass(frozen=True)
class Estimate:
    """Seconds of one run at the chip's peak figures, not measured: the larger of computing and memory traffic, plus all
    collectives and their latencies, none of them overlapped.

    Attributes:
        compute: products of one chip at peak bf16 rate.
        memory: operands and results of its products, arguments and outputs at peak HBM bandwidth.
        communication: collectives at the bandwidth of all links of a chip, one direction; where they leave a host, at
            that of the network if it is less.
        step: the estimate.
        mfu: operations of the traced program (recomputation included) over what the chips could do in that time.
        latency: of all collectives, by the hops of each (`lam_jax.parallel.chips`).
    """

    compute: float
    memory: float
    communication: float
    step: float
    mfu: float
    latency: float = 0.0


@dataclasses.dataclass(frozen=True)
class Traffic:
    """Collectives of one kind: how often they run, and bytes (the larger of operand and result) on one chip.

    Of these bytes `between_hosts` belong to collectives whose devices are in several hosts.
    """

    runs: int
    bytes: int
    between_hosts: int = 0


@dataclasses.dataclass(frozen=True)
class Report:
    """What compiling a program told. If it does not fit, the compiler may tell no more than `reason`."""

    preset: str
    stage: str
    topology: str
    chips: int
    mesh: dict[str, int]
    workload: dict[str, Any]
    hbm: float
    fits: bool
    reason: str
    memory: Memory | None
    flops: int
    chip_flops: int | None
    collectives: dict[str, Traffic]
    estimate: Estimate | None
    tokens: int
    cpu_seconds: float
    versions: dict[str, str]
    decode: DecodeStep | None = None
    dtype: str = "bfloat16"  # of computing and of what does not train; what trains is held in float32
    rollout_weights: str = "same"  # how rollouts hold the frozen backbone


def check(stage: str, setting: Setting, topology: str, chip: Chip) -> Report:
    """Compiles the program of a stage and reports.

    Args:
        stage: one of `STAGES`.
        setting: preset, mesh and workload.
        topology: its name, for the report.
        chip: that the mesh is made of.

    Raises:
        ValueError: sizes that do not divide over the mesh.
    """
    began = _cpu_seconds()
    with compiling_for(setting.mesh):
        program = build(stage, setting)
        traced = program.trace()
    flops = count_flops(traced.jaxpr, program.while_trips)
    found: dict[str, Any] = {
        "memory": None,
        "chip_flops": None,
        "collectives": {},
        "estimate": None,
        "decode": None,
    }
    # The links of TPUs lead to chips of other hosts as well.
    hosts = hosts_of(program.mesh) if math.isfinite(chip.network_bandwidth) else ()
    try:
        with compiling_for(program.mesh):
            compiled = traced.lower().compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        fits, reason = False, refusal(str(error))
    else:
        memory = measure(program, traced, compiled)
        text = compiled.as_text() or ""
        sent = collectives(text, program.while_trips)
        work = chip_work(text, program.while_trips, kernel_flops(traced.jaxpr))
        fits = memory.total <= chip.hbm
        reason = "" if fits else f"needs {memory.total / 2**30:.2f} GiB, a {chip.unit} has {chip.hbm / 2**30:.2f} GiB"
        found = {
            "memory": memory,
            "chip_flops": work.flops,
            "collectives": by_kind(sent, hosts),
            "estimate": estimate(flops, work, memory, sent, chip, program.mesh.size, hosts, places_of(program.mesh)),
            "decode": decode_of(program, text, sent),
        }
    return Report(
        preset=setting.preset,
        stage=stage,
        topology=topology,
        chips=program.mesh.size,
        mesh=dict(program.mesh.shape),
        workload=dataclasses.asdict(setting.work),
        hbm=chip.hbm,
        fits=fits,
        reason=reason,
        flops=flops,
        tokens=program.tokens,
        cpu_seconds=round(_cpu_seconds() - began, 1),
        versions=_versions(),
        dtype=setting.config.compute_dtype,
        rollout_weights=setting.rollout_weights,
        **found,
    )


def measure(program: Program, traced: Any, compiled: Any) -> Memory:
    """Memory of a compiled program, and of what stays beside it."""
    sizes = compiled.memory_analysis()
    # jit passes only the arguments that the program reads.
    inputs = jax.tree.leaves(program.arguments)
    jaxpr = traced.jaxpr.jaxpr
    _, read = partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))
    used = [leaf for leaf, is_read in zip(inputs, read, strict=True) if is_read]
    return Memory(
        arguments=sizes.argument_size_in_bytes,
        beside=bytes_per_chip(program.resident) - bytes_per_chip(used),
        outputs=sizes.output_size_in_bytes - sizes.alias_size_in_bytes,
        temporaries=sizes.temp_size_in_bytes,
        code=sizes.generated_code_size_in_bytes,
    )


def decode_of(program: Program, hlo_text: str, sent: list[Collective]) -> DecodeStep | None:
    """What a decode step of a rollout costs; None for other programs."""
    if program.decode is None:
        return None
    inside = sum(collective.trips for collective in sent if collective.unbounded)
    return decode_step(hlo_text, program.while_trips, program.decode.steps, program.decode.floor, inside)


def by_kind(sent: list[Collective], hosts: Sequence[int] = ()) -> dict[str, Traffic]:
    """Executions and bytes of each kind of collective."""
    kinds: dict[str, Traffic] = {}
    for collective in sorted(sent, key=lambda c: c.kind):
        before, size = kinds.get(collective.kind, Traffic(0, 0)), collective.total_bytes
        outside = size if hosts_spanned(collective, hosts) > 1 else 0
        kinds[collective.kind] = Traffic(
            before.runs + collective.trips, before.bytes + size, before.between_hosts + outside
        )
    return kinds


def hosts_spanned(collective: Collective, hosts: Sequence[int]) -> int:
    """Hosts that one group of a collective lies in, at most; `hosts` are those of the devices, none: all in one."""
    return max((len({hosts[device] for device in group}) for group in collective.groups if hosts), default=1)


def bandwidth(collective: Collective, chip: Chip, hosts: Sequence[int]) -> float:
    """Bytes a second that a chip sends in a collective: that of its links, or of the network between hosts.

    A ring through several hosts leaves each of them once for every member of the group there, so the adapters of all
    these share what goes out.
    """
    spanned = hosts_spanned(collective, hosts)
    if spanned == 1:
        return chip.link_bandwidth
    return min(chip.link_bandwidth, collective.group // spanned * chip.network_bandwidth)


def latency(collective: Collective, chip: Chip, hosts: Sequence[int], places: Sequence[tuple[int, ...]]) -> float:
    """Seconds of one run of a collective besides its bytes; `places` are those of the chips in their torus, if any."""

    spanned = hosts_spanned(collective, hosts)
    groups = [group for group in collective.groups if len(group) > 1]
    return max((chip.latency(collective.kind, box_of(group, places), spanned) for group in groups), default=0.0)


def wire_bytes(collective: Collective) -> float:
    """What one chip sends in all runs of a collective, by a ring or better."""
    if collective.kind in ("collective-permute", "collective-broadcast"):
        return collective.total_bytes
    share = (collective.group - 1) / collective.group
    return (2 if collective.kind == "all-reduce" else 1) * share * collective.total_bytes


def estimate(
    flops: int,
    work: ChipWork,
    memory: Memory,
    sent: list[Collective],
    chip: Chip,
    chips: int,
    hosts: Sequence[int] = (),
    places: Sequence[tuple[int, ...]] = (),
) -> Estimate:
    """Time of one run at peak figures."""
    compute = work.flops / chip.flops
    traffic = (work.bytes + memory.arguments + memory.outputs) / chip.hbm_bandwidth
    communication = sum(wire_bytes(one) / bandwidth(one, chip, hosts) for one in sent)
    waiting = sum(runs * each for each, runs in _operations(sent, chip, hosts, places))
    step = max(compute, traffic) + communication + waiting
    return Estimate(compute, traffic, communication, step, flops / (step * chip.flops * chips), waiting)


def _operations(
    sent: list[Collective], chip: Chip, hosts: Sequence[int], places: Sequence[tuple[int, ...]]
) -> Iterator[tuple[float, int]]:
    """Latency and runs of every collective operation; the arrays that one moves together wait once."""
    for one in {(one.computation, one.name): one for one in sent}.values():
        yield latency(one, chip, hosts, places), one.trips


def refusal(message: str) -> str:
    """The compiler's own words about memory, without the program's listing."""
    found = re.search(r"Ran out of memory[^\n]*?(?=\.\s|\n|$)", message)
    return f"the compiler refuses it: {found[0] if found else message.splitlines()[0]}"


def _cpu_seconds() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_utime


def _versions() -> dict[str, str]:
    installed = {distribution.name for distribution in metadata.distributions()}
    return {name: metadata.version(name) for name in ("jax", "libtpu", "jax-cuda13-plugin") if name in installed}
