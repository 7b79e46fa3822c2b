"""Results of `lam-jax compile` as JSON files, one a preset, topology and dtype, and as markdown tables of them all."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from lam_jax.aot.fits import decode_table, fits_table, unit_of
from lam_jax.aot.programs import STAGES
from lam_jax.aot.report import Report
from lam_jax.models.families import PRESETS

GIB = 2**30
NOTE = """
`lam-jax compile` compiles the programs of training themselves for TPUs or NVIDIA cards that are not attached, on any
CPU machine; a GPU that the machine has is left alone:

    pip install 'lam_jax[aot]'      # for TPUs: libtpu
    lam-jax compile --preset qwen2_5_vl_3b --topology v5e:4x4 --stage rollout_latent update_latent

    pip install 'lam_jax[aot-gpu]'  # for NVIDIA cards, Linux: jax's plugin for CUDA, no driver and no CUDA
    lam-jax compile --preset qwen2_5_vl_3b --topology h100:8 --stage rollout_latent update_latent

Cards are h100, h200, a100 (80 GB), a100-40gb, l40s and rtx4090; h100:2x8 is two hosts of eight.

It ends with code 1 if a program does not fit. `--mesh data=2,fsdp=4,tensor=2` tries a mesh of yours, `--rows`,
`--prompts`, `--samples`, `--prompt`, `--completion` and `--micro-batches` other sizes, `--dtype float32` another
precision, `--rollout-mesh` another mesh of rollouts, `--all --out FOLDER` makes a page like this one. This page:
`python -m benchmarks.pods`.

If a step does not fit: in stages 1 to 5 raise `fsdp` (weights, gradients and optimiser state are divided by fsdp x
tensor) or lower the rows; in rollouts raise `tensor` of their mesh (attention's weights are divided by `tensor` alone,
the others by `wide` too) or lower prompts x samples; in updates split the prompts by `--micro-batches`, which changes
no number, or lower prompts x samples.

How to read the tables:

- Memory and collectives are what the compiler reports for one chip or card. *beside* is what the phase keeps there
  although the program does not read it, such as the optimiser state during a rollout. It comes from the functions that
  hold it in a run (`lam_jax/train/rl_held.py`), and a test compares it with the arrays of one. Counted so:
  latent RL in bfloat16 of 3B on rtx4090:1 and of 7B on h100:1, and updates in micro-batches. The other rollouts and
  updates are from before stage 6 held less: upper bounds.
- *TFLOP* is what the traced program asks of all chips together, recomputed activations included; *work* is what the
  chips compute over that: above 1 they repeat each other's work.
- *step* and *MFU* are **estimates, not measurements**: the larger of matrix products at peak bf16 rate and their memory
  traffic at peak bandwidth, plus all collectives at the full bandwidth of a chip's links and with a latency each, none
  overlapped. The peak figures, latencies and their sources are in `lam_jax/parallel/chips.py` and
  `lam_jax/parallel/cards.py`. Collectives that leave a host of cards go at the rate of its network adapters. *of it
  latency*: 1 us for each hop of a collective between TPUs, the longest way there and, in a sum, back; a sum of 16 chips
  in a 4x4 is 12 hops. That is a lower limit. Rollouts are taken to run to their last token.
- Rollouts have a mesh of their own over the same chips, chosen by what a decode step costs there
  (`lam_jax/parallel/choose_rollout_mesh.py`): it may have an axis `wide`, which divides samples, and weights that are
  not attention's. `--rollout-mesh same` keeps rollouts on the mesh of training, `--rollout-mesh wide=4,tensor=4` asks
  for one. Moving the policy to that mesh and a rollout back, once a step, is not in the estimates.
- Rows without a latency are of an earlier version, with rollouts on the mesh of training. Missing: `rollout_latent` of
  `qwen3_vl_8b` on v6e:16x16 and, on rollouts' own mesh, on v5p:8x8x16. libtpu compiles it but cannot print it
  ("RET_CHECK failure ... async-update instruction should have 1 operands but sees 3"), so nothing can be counted.
- *CPU s* is the time that tracing and compiling took on one machine, summed over its cores.
- Of a card's memory 5 % are left to CUDA. jax takes 75 % unless told otherwise: `XLA_PYTHON_CLIENT_MEM_FRACTION=.95`.
- Code for a card that is not there is compiled without trying variants of its products (autotuning), so a card may run
  others of the same size. Nothing in the tables was measured on a card.
"""


def result_file(
    folder: Path, preset: str, topology: str, dtype: str | None = None, rollout_weights: str = "same"
) -> Path:
    """Where the reports of a preset on a topology are kept; what is not usual for the preset is in the name."""
    unusual = "" if dtype in (None, PRESETS[preset].compute_dtype) else f"_{dtype}"
    unusual += "" if rollout_weights == "same" else f"_rollouts_{rollout_weights}"
    return folder / f"{preset}_{topology.replace(':', '_')}{unusual}.json"


def save(report: Report, folder: Path) -> Path:
    """Writes a report into the file of its preset and topology, in the place of an older one of the same stage."""
    path = result_file(folder, report.preset, report.topology, report.dtype, report.rollout_weights)
    reports = {found["stage"]: found for found in load(path)}
    reports[report.stage] = dataclasses.asdict(report)
    ordered = [reports[stage] for stage in STAGES if stage in reports]
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"reports": ordered}, indent=1) + "\n", encoding="utf-8")
    return path


def load(path: Path) -> list[dict[str, Any]]:
    """The reports in a file; none if there is no such file."""
    return json.loads(path.read_text(encoding="utf-8"))["reports"] if path.exists() else []


def write_markdown(folder: Path, path: Path) -> None:
    """Writes the tables of all results in `folder`."""
    groups = [reports for file in folder.glob("*.json") if (reports := load(file))]
    for reports in groups:
        for report in reports:
            report.setdefault("dtype", "bfloat16")  # of results from before it was a choice
            if report.get("rollout_weights", "same") != "same":
                report["dtype"] += f", rollouts {report['rollout_weights']}"
    groups.sort(key=lambda found: tuple(found[0][key] for key in ("preset", "dtype", "chips", "topology")))
    parts = ["# Will it fit?", NOTE]
    every = [report for reports in groups for report in reports]
    parts += [*fits_table(every), *decode_table(every)]
    parts += [_table(reports) for reports in groups]
    scaling = _scaling(every)
    text = "\n".join([*parts, *scaling])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text.rstrip() + "\n", encoding="utf-8")


def _table(reports: list[dict[str, Any]]) -> str:
    first = reports[0]
    work = first["workload"]
    lengths = f"{work['prompt']} + {work['completion']}"
    meshes = {report["stage"]: _sizes(report["mesh"]) for report in reports}
    mesh = next((sizes for stage, sizes in meshes.items() if not stage.startswith("rollout_")), _sizes(first["mesh"]))
    others = {sizes: stage for stage, sizes in meshes.items() if sizes != mesh}
    mesh += "".join(f"; {stage} on {sizes}" for sizes, stage in others.items())
    count = f"{first['chips']} {unit_of(first)}{'s' if first['chips'] > 1 else ''}"
    lines = [
        f"## {first['preset']} in {first['dtype']} on {first['topology']}: {count}",
        "",
        f"Mesh {mesh}. Stages 1 to 5: {work['rows']} rows of {lengths} tokens. Rollouts and updates: {work['prompts']} "
        f"prompts x {work['samples']} samples of {lengths} tokens. A {unit_of(first)} has {first['hbm'] / GIB:.2f} "
        "GiB.",
        "",
        "| stage | memory, GiB | of it beside | fits | TFLOP | work | collectives, GB each | step, s | of it latency "
        "| MFU | CPU s |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    return "\n".join([*lines, *map(_line, reports), ""])


def _sizes(mesh: dict[str, int]) -> str:
    return ", ".join(f"{axis} {size}" for axis, size in mesh.items())


def _line(report: dict[str, Any]) -> str:
    memory, guess = report["memory"], report["estimate"]
    total = f"{sum(memory.values()) / GIB:.2f}" if memory else "-"
    beside = f"{memory['beside'] / GIB:.2f}" if memory else "-"
    work = f"{report['chip_flops'] * report['chips'] / report['flops']:.2f}" if report["chip_flops"] else "-"
    sent = ", ".join(f"{kind} {traffic['bytes'] / 1e9:.2f}" for kind, traffic in report["collectives"].items()) or "-"
    fits = "yes" if report["fits"] else f"no: {report['reason']}"
    step, mfu = (f"{guess['step']:.3f}", f"{guess['mfu']:.1%}") if guess else ("-", "-")
    parts = report["workload"].get("micro_batches", 1)
    name = report["stage"] if parts == 1 else f"{report['stage']}, {parts} micro-batches"
    # Results of earlier versions left latencies out.
    late = f"{guess['latency']:.3f}" if guess and "latency" in guess else "-"
    cells = (name, total, beside, fits, f"{report['flops'] / 1e12:,.0f}", work, sent, step, late, mfu)
    return f"| {' | '.join(cells)} | {report['cpu_seconds']:.0f} |"


def _scaling(reports: list[dict[str, Any]]) -> list[str]:
    """Weak scaling: the estimate at 16 chips over that at more, at the same work a chip."""
    found = {
        (r["preset"], r["topology"].split(":")[0], r["stage"], r["chips"]): r
        for r in reports
        if r["estimate"] is not None and unit_of(r) == "chip"
    }
    lines = []
    for (preset, chip, stage, chips), report in found.items():
        small = found.get((preset, chip, stage, 16))
        if chips == 16 or small is None:
            continue
        one, many = small["estimate"]["step"], report["estimate"]["step"]
        lines.append(f"| {preset} | {chip} | {stage} | {one:.3f} | {chips} | {many:.3f} | {one / many:.0%} |")
    if not lines:
        return []
    return [
        "## Weak scaling",
        "",
        "The same work a chip, so a perfect step takes as long on more chips. Estimates as above.",
        "",
        "| preset | chip | stage | step on 16 chips, s | chips | step, s | efficiency |",
        "|---|---|---|---|---|---|---|",
        *lines,
        "",
    ]
