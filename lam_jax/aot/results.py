"""Results of `lam-jax compile` as JSON files, one a preset and topology, and as markdown tables of all of them."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from lam_jax.aot.programs import STAGES
from lam_jax.aot.report import Report

GIB = 2**30
NOTE = """
`lam-jax compile` compiles the programs of training themselves for a TPU slice that is not attached, on any CPU machine:

    pip install 'lam_jax[aot]'
    lam-jax compile --preset qwen2_5_vl_3b --topology v5e:4x4 --stage rollout_latent update_latent

It ends with code 1 if a program does not fit. `--mesh data=2,fsdp=4,tensor=2` tries a mesh of yours, `--rows`,
`--prompts`, `--samples`, `--prompt` and `--completion` other sizes, `--all --out FOLDER` makes a page like this one.

If a step does not fit: in stages 1 to 5 raise `fsdp` (weights, gradients and optimiser state are divided by fsdp x
tensor) or lower the rows; in rollouts raise `tensor` (their copy of the weights is divided by `tensor` alone) or lower
prompts x samples; in updates lower prompts x samples, or split them by `RLSettings.mini_batches`.

How to read the tables:

- Memory and collectives are what the TPU compiler reports for one chip. *beside* is what the phase keeps on the chip
  although the program does not read it, such as the optimiser state during a rollout.
- *TFLOP* is what the traced program asks of all chips together, recomputed activations included; *work* is what the
  chips compute over that: above 1 they repeat each other's work.
- *step* and *MFU* are **estimates, not measurements**: the larger of matrix products at peak bf16 rate and their memory
  traffic at peak bandwidth, plus all collectives at the full bandwidth of a chip's links, none overlapped. The peak
  figures and their sources are in `lam_jax/aot/chips.py`. Latencies are not in it, which decoding with many small sums
  over `tensor` will feel. Rollouts are taken to run to their last token.
- *CPU s* is the time that tracing and compiling took on one machine, summed over its cores.
"""


def result_file(folder: Path, preset: str, topology: str) -> Path:
    """Where the reports of a preset on a topology are kept."""
    return folder / f"{preset}_{topology.replace(':', '_')}.json"


def save(report: Report, folder: Path) -> Path:
    """Writes a report into the file of its preset and topology, in the place of an older one of the same stage."""
    path = result_file(folder, report.preset, report.topology)
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
    groups.sort(key=lambda reports: (reports[0]["preset"], reports[0]["chips"], reports[0]["topology"]))
    parts = ["# Will it fit a pod?", NOTE]
    parts += [_table(reports) for reports in groups]
    scaling = _scaling([report for reports in groups for report in reports])
    text = "\n".join([*parts, *scaling])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text.rstrip() + "\n", encoding="utf-8")


def _table(reports: list[dict[str, Any]]) -> str:
    first = reports[0]
    work = first["workload"]
    lengths = f"{work['prompt']} + {work['completion']}"
    mesh = ", ".join(f"{axis} {size}" for axis, size in first["mesh"].items())
    lines = [
        f"## {first['preset']} on {first['topology']}: {first['chips']} chips",
        "",
        f"Mesh {mesh}. Stages 1 to 5: {work['rows']} rows of {lengths} tokens. Rollouts and updates: {work['prompts']} "
        f"prompts x {work['samples']} samples of {lengths} tokens. A chip has {first['hbm'] / GIB:.2f} GiB.",
        "",
        "| stage | memory, GiB | of it beside | fits | TFLOP | work | collectives a chip, GB | step, s | MFU | CPU s |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    return "\n".join([*lines, *map(_line, reports), ""])


def _line(report: dict[str, Any]) -> str:
    memory, guess = report["memory"], report["estimate"]
    total = f"{sum(memory.values()) / GIB:.2f}" if memory else "-"
    beside = f"{memory['beside'] / GIB:.2f}" if memory else "-"
    work = f"{report['chip_flops'] * report['chips'] / report['flops']:.2f}" if report["chip_flops"] else "-"
    sent = ", ".join(f"{kind} {traffic['bytes'] / 1e9:.2f}" for kind, traffic in report["collectives"].items()) or "-"
    fits = "yes" if report["fits"] else f"no: {report['reason']}"
    step, mfu = (f"{guess['step']:.3f}", f"{guess['mfu']:.1%}") if guess else ("-", "-")
    cells = (report["stage"], total, beside, fits, f"{report['flops'] / 1e12:,.0f}", work, sent, step, mfu)
    return f"| {' | '.join(cells)} | {report['cpu_seconds']:.0f} |"


def _scaling(reports: list[dict[str, Any]]) -> list[str]:
    """Weak scaling: the estimate at 16 chips over that at more, at the same work a chip."""
    found = {
        (r["preset"], r["topology"].split(":")[0], r["stage"], r["chips"]): r
        for r in reports
        if r["estimate"] is not None
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
