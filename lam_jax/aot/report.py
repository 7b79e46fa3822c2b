"""Compiles one program and says what it needs: memory, operations, collectives, and an estimate of its time."""

import dataclasses
import re
import resource
from importlib import metadata
from typing import Any

import jax
from jax.interpreters import partial_eval

from lam_jax.aot.abstract import bytes_per_chip
from lam_jax.aot.chips import Chip
from lam_jax.aot.flops import count_flops
from lam_jax.aot.programs import Program, Setting, build
from lam_jax.aot.work import ChipWork, chip_work
from lam_jax.parallel.collectives import Collective, collectives


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
    collectives, none of them overlapped.

    Attributes:
        compute: products of one chip at peak bf16 rate.
        memory: operands and results of its products, arguments and outputs at peak HBM bandwidth.
        communication: collectives at the bandwidth of all links of a chip, one direction.
        step: the estimate.
        mfu: operations of the traced program (recomputation included) over what the chips could do in that time.
    """

    compute: float
    memory: float
    communication: float
    step: float
    mfu: float


@dataclasses.dataclass(frozen=True)
class Traffic:
    """Collectives of one kind: how often they run, and bytes (the larger of operand and result) on one chip."""

    runs: int
    bytes: int


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
    program = build(stage, setting)
    traced = program.trace()
    flops = count_flops(traced.jaxpr, program.while_trips)
    found: dict[str, Any] = {
        "memory": None,
        "chip_flops": None,
        "collectives": {},
        "estimate": None,
    }
    try:
        compiled = traced.lower().compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        fits, reason = False, refusal(str(error))
    else:
        memory = measure(program, traced, compiled)
        text = compiled.as_text() or ""
        sent = collectives(text, program.while_trips)
        work = chip_work(text, program.while_trips)
        fits = memory.total <= chip.hbm
        reason = "" if fits else f"needs {memory.total / 2**30:.2f} GiB, a chip has {chip.hbm / 2**30:.2f} GiB"
        found = {
            "memory": memory,
            "chip_flops": work.flops,
            "collectives": by_kind(sent),
            "estimate": estimate(flops, work, memory, sent, chip, setting.mesh.size),
        }
    return Report(
        preset=setting.preset,
        stage=stage,
        topology=topology,
        chips=setting.mesh.size,
        mesh=dict(setting.mesh.shape),
        workload=dataclasses.asdict(setting.work),
        hbm=chip.hbm,
        fits=fits,
        reason=reason,
        flops=flops,
        tokens=program.tokens,
        cpu_seconds=round(_cpu_seconds() - began, 1),
        versions=_versions(),
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


def by_kind(sent: list[Collective]) -> dict[str, Traffic]:
    """Executions and bytes of each kind of collective."""
    kinds = sorted({collective.kind for collective in sent})
    groups = {kind: [c for c in sent if c.kind == kind] for kind in kinds}
    return {
        kind: Traffic(sum(c.trips for c in all_), sum(c.total_bytes for c in all_)) for kind, all_ in groups.items()
    }


def wire_bytes(collective: Collective) -> float:
    """What one chip sends in all runs of a collective, by a ring or better."""
    if collective.kind in ("collective-permute", "collective-broadcast"):
        return collective.total_bytes
    share = (collective.group - 1) / collective.group
    return (2 if collective.kind == "all-reduce" else 1) * share * collective.total_bytes


def estimate(flops: int, work: ChipWork, memory: Memory, sent: list[Collective], chip: Chip, chips: int) -> Estimate:
    """Time of one run at peak figures."""
    compute = work.flops / chip.flops
    traffic = (work.bytes + memory.arguments + memory.outputs) / chip.hbm_bandwidth
    communication = sum(map(wire_bytes, sent)) / chip.ici_bandwidth
    step = max(compute, traffic) + communication
    return Estimate(compute, traffic, communication, step, flops / (step * chip.flops * chips))


def refusal(message: str) -> str:
    """The compiler's own words about memory, without the program's listing."""
    found = re.search(r"Ran out of memory[^\n]*?(?=\.\s|\n|$)", message)
    return f"the compiler refuses it: {found[0] if found else message.splitlines()[0]}"


def _cpu_seconds() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_utime


def _versions() -> dict[str, str]:
    installed = {distribution.name for distribution in metadata.distributions()}
    return {name: metadata.version(name) for name in ("jax", "libtpu") if name in installed}
