"""`lam-jax compile`: compiles stages for a topology, prints what they need, keeps the results."""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path

import jax
from rich.console import Console
from rich.table import Table

from lam_jax.aot.decode import DecodeStep
from lam_jax.aot.programs import Setting, load_of
from lam_jax.aot.report import Report, check
from lam_jax.aot.results import save, write_markdown
from lam_jax.aot.topology import TopologyError, chip_of, hosts_of, topology_devices, topology_mesh
from lam_jax.aot.workload import Workload
from lam_jax.errors import LamJaxError
from lam_jax.latent.config import LATENT_PRESETS
from lam_jax.models.families import PRESETS
from lam_jax.nn.stored import Storage
from lam_jax.parallel.cards import Card
from lam_jax.parallel.chips import Chip
from lam_jax.parallel.choose_mesh import Load, check_mesh, choose_mesh, parse_shape
from lam_jax.parallel.choose_rollout_mesh import (
    RolloutChoice,
    check_rollout_mesh,
    choose_rollout_mesh,
    parse_rollout_mesh,
    rollout_shape,
)
from lam_jax.parallel.mesh import AXES, places_of, reshaped
from lam_jax.train.counting import decoding_of

GIB = 2**30


class DoesNotFitError(LamJaxError):
    """At least one program needs more memory than a chip has."""


def run_compile(
    preset: str,
    stages: Sequence[str],
    topology: str,
    mesh: str | None,
    sizes: dict[str, int],
    out: Path | None,
    markdown: Path | None,
    dtype: str | None = None,
    rollout_weights: Storage = "same",
    rollout_mesh: str = "auto",
) -> None:
    """Compiles `stages` one after the other and prints a report of each.

    Args:
        preset: of the model.
        stages: some of `STAGES`.
        topology: e.g. "v5e:4x4" or "h100:8".
        mesh: e.g. "data=2,fsdp=4,tensor=2"; None chooses one.
        sizes: of the `Workload`, where they are not the default ones.
        out: folder for the results as JSON; None keeps none.
        markdown: file for the tables of all results in `out`.
        dtype: that programs compute in, "bfloat16" or "float32"; None: that of the preset.
        rollout_weights: how rollouts hold the frozen backbone.
        rollout_mesh: of rollouts, as `mesh`; "auto" chooses one by its cost, "same" is the mesh of everything else.

    Raises:
        TopologyError: unknown topology, or a mesh or sizes that do not fit it.
        MissingExtraError: the compiler for the topology is not installed.
        DoesNotFitError: after all stages are done, if one does not fit.
    """
    # Nothing runs: the host's CPU traces, whatever accelerator it may have.
    jax.config.update("jax_platforms", "cpu")
    console = Console()
    chip = chip_of(topology)
    if isinstance(chip, Card):
        # A program for a card that is not there can be written to jax's cache, but not read back.
        jax.config.update("jax_enable_compilation_cache", False)
    devices = topology_devices(topology)
    work = Workload.of(len(devices), **sizes)
    config = PRESETS[preset] if dtype is None else PRESETS[preset].changed(compute_dtype=dtype)
    load = load_of(preset, work, config)
    try:
        if mesh is None and len(devices) == 1:
            shape = (1, 1, 1)  # whether it fits is for the compiler to say
        elif mesh is None:
            choice = choose_mesh(load, len(devices), int(chip.hbm))
            console.print(str(choice), soft_wrap=True, highlight=False)
            shape = choice.shape
        else:
            shape = parse_shape(mesh)
            check_mesh(shape, load)
        mesh_of_it = topology_mesh(devices, shape)
        setting = Setting(preset, mesh_of_it, work, backbone=config, rollout_weights=rollout_weights)
        if rl := [stage for stage in stages if stage.startswith(("rollout_", "update_"))]:
            coded = any(not stage.endswith("_token") for stage in rl)
            choice = _rollouts_on(rollout_mesh, setting, load, chip, coded)
            if choice.shape != rollout_shape(shape):
                console.print(f"rollouts on {choice}", soft_wrap=True, highlight=False)
            setting = dataclasses.replace(setting, rollout_mesh=reshaped(mesh_of_it, choice.shape))
    except ValueError as error:
        raise TopologyError(f"{preset} on {topology}: {error}") from error
    short = []
    for stage in stages:
        try:
            report = check(stage, setting, topology, chip)
        except ValueError as error:
            raise TopologyError(f"{stage} on {topology} with mesh {dict(zip(AXES, shape))}: {error}") from error
        show(report, console, chip.unit)
        if out is not None:
            save(report, out)
        if not report.fits:
            short.append(f"{stage} ({report.reason})")
    if out is not None and markdown is not None:
        write_markdown(out, markdown)
        console.print(f"Wrote {markdown}", soft_wrap=True, highlight=False)
    if short:
        raise DoesNotFitError(f"{preset} does not fit {topology}: {'; '.join(short)}.")


def _rollouts_on(asked: str, setting: Setting, load: Load, chip: Chip, coded: bool) -> RolloutChoice:
    sizes = setting.mesh.shape
    training = (sizes["data"], sizes["fsdp"], sizes["tensor"])
    given = parse_rollout_mesh(asked)
    if given == "same":
        return RolloutChoice(rollout_shape(training), ("that of training",))
    if given != "auto":
        check_rollout_mesh(given, training, load)
        return RolloutChoice(rollout_shape(given), ("as asked for",))
    work, latent = setting.work, LATENT_PRESETS[setting.preset] if coded else None
    lengths = (work.prompts, work.samples, work.prompt, work.completion)
    decoding = decoding_of(setting.config, latent, lengths, setting.rollout_weights)
    hosts = hosts_of(setting.mesh)
    per_host = hosts.count(hosts[0]) if math.isfinite(chip.network_bandwidth) else None
    return choose_rollout_mesh(load, decoding, training, chip, int(chip.hbm), per_host, places_of(setting.mesh))


def show(report: Report, console: Console, unit: str = "chip") -> None:
    """Prints one report; `unit` is what the topology is made of."""
    mesh = ", ".join(f"{axis}={size}" for axis, size in report.mesh.items())
    held = "" if report.rollout_weights == "same" else f", rollouts' backbone in {report.rollout_weights},"
    table = Table(
        title=f"{report.preset} {report.stage} in {report.dtype}{held} on {report.topology} ({mesh})",
        box=None,
        show_header=False,
    )
    table.add_column(no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    for name, value in _rows(report, unit):
        table.add_row(name, value)
    console.print(table)
    console.print("fits" if report.fits else f"DOES NOT FIT: {report.reason}", style="green" if report.fits else "red")


def _rows(report: Report, unit: str) -> list[tuple[str, str]]:
    rows = []
    if report.memory is not None:
        rows += [
            (f"{name} per {unit}", f"{size / GIB:.2f} GiB") for name, size in dataclasses.asdict(report.memory).items()
        ]
        rows.append((f"memory per {unit}, of", f"{report.memory.total / GIB:.2f} of {report.hbm / GIB:.2f} GiB"))
    rows.append((f"operations, all {unit}s", f"{report.flops:.3e}"))
    if report.chip_flops is not None:
        rows.append((f"operations per {unit}, times {unit}s", f"{report.chip_flops * report.chips:.3e}"))
    for kind, traffic in report.collectives.items():
        rows.append((f"{kind} per {unit}", f"{traffic.runs:,} x, {traffic.bytes / 1e9:.3f} GB"))
        if traffic.between_hosts:
            rows.append(("of these between hosts", f"{traffic.between_hosts / 1e9:.3f} GB"))
    if report.decode is not None:
        rows += _decode_rows(report.decode, unit)
    if report.estimate is not None:
        for name in ("compute", "memory", "communication", "latency", "step"):
            rows.append((f"estimate at peak figures: {name}", f"{getattr(report.estimate, name):.4f} s"))
        rows.append(("estimate at peak figures: MFU", f"{report.estimate.mfu:.1%}"))
    rows.append(("CPU time of compilation", f"{report.cpu_seconds:.0f} s"))
    return rows


def _decode_rows(step: DecodeStep, unit: str) -> list[tuple[str, str]]:
    rows = []
    if unit == "card":  # a TPU runs the program as a whole
        rows.append(("kernels a decode step", f"{step.kernels:,.0f}"))
        rows += [(f"of these {kind}", f"{count:,.0f}") for kind, count in step.launches.items()]
    rows.append((f"bytes read a decode step, per {unit}", f"{step.bytes_read / 1e9:.3f} GB"))
    rows.append(("over the floor", f"{step.bytes_read / step.floor:.2f} x {step.floor / 1e9:.3f} GB"))
    rows.append(("collectives a decode step", f"{step.collectives:,.0f}"))
    return rows
