"""Tables over all results of `lam-jax compile`: what fits which NVIDIA cards, and what decode steps cost."""

from typing import Any

from lam_jax.parallel.cards import CARDS

GIB = 2**30
# What somebody wants to run, and the programs that all have to fit for it.
METHODS = {
    "latent RL": ("rollout_latent", "update_latent"),
    "hybrid RL": ("rollout_hybrid", "update_hybrid"),
    "token RL": ("rollout_token", "update_token"),
    "stage 5, latent": ("sft_latent",),
    "stage 5, token": ("sft_token",),
    "stage 1, inverse": ("inverse",),
    "stage 2, projector": ("projector",),
    "stage 3, joint": ("joint",),
    "stage 4, cloning": ("cloning",),
}
Report = dict[str, Any]
# Of how decode steps got here, and of what the count leaves out.
HISTORY = (
    "Kernels a step of 3B in bfloat16 on one H100, for tokens and latent actions, by jax 0.10.2: 1,370 and 1,694 with "
    "the layers scanned; 788 and 980 with the layers apart and XLA's kernels alone; now as in the table. A test holds "
    "them at 450 and 570 at most (`tests/aot/test_gpu.py`). In latent and hybrid RL in bfloat16 the layers stay apart "
    "from one rollout to the next. Otherwise they are a copy of the stacked ones, which a rollout holds beside them: "
    "in bfloat16 on one card 4 to 5 GiB at 3B and 11 to 14 at 7B.",
    "",
    "Programs for one described card are those of a real one but for one thing: prefill and updates use cuDNN's "
    "attention there in bfloat16, which can only be asked on a card. Here their attention is XLA's, which writes the "
    "scores down, so the memory that is counted for the same settings is an upper bound. Measured on an H100 at 3B "
    "(`benchmarks/results/gpu/h100.json`): peaks of 26.7 GiB in a rollout of latent actions and 33.6 GiB in one of "
    "tokens; 60.5 GiB in a whole latent step, whose update keeps all activations, which the programs here recompute, "
    "and 55.4 GiB in a token step, whose update keeps the products with weights and takes a prompt at a time.",
)


def unit_of(report: Report) -> str:
    """What the topology of a report is made of."""
    return "card" if report["topology"].partition(":")[0] in CARDS else "chip"


def fits_table(reports: list[Report]) -> list[str]:
    """Method, size and precision against cards; nothing if there are no results for cards."""
    reports = [report for report in reports if unit_of(report) == "card"]
    if not reports:
        return []
    found = {(r["preset"], r["dtype"], r["topology"], r["stage"]): r for r in reports}
    topologies = list(dict.fromkeys(r["topology"] for r in sorted(reports, key=lambda r: (r["hbm"], r["chips"]))))
    memory = {r["topology"]: r["hbm"] for r in reports}
    head = " | ".join(f"{name}, {memory[name] / GIB:.1f} GiB each" for name in topologies)
    lines = [
        "## NVIDIA cards: what fits where",
        "",
        "GiB on each card of the program of the method that needs most, by the compiler's count, and whether that "
        "fits: **counted, not measured**. Rows and prompts are those of the tables below. Precision: what programs "
        "compute in, and weights that do not train are held in; weights that train, their gradients and moments are "
        "float32. Updates go through their prompts in as many micro-batches (`--micro-batches`, of a run "
        "`--rl-micro-batches`) as is said; rollouts are not divided.",
        "",
        f"| method | size | precision | {head} |",
        f"|---|---|---|{'---|' * len(topologies)}",
    ]
    for method, stages in METHODS.items():
        for preset, dtype in sorted({(r["preset"], r["dtype"]) for r in reports}):
            cells = [_cell([found.get((preset, dtype, name, stage)) for stage in stages]) for name in topologies]
            if any(cells):
                lines.append(f"| {method} | {preset} | {dtype} | {' | '.join(cell or '-' for cell in cells)} |")
    return [*lines, ""]


def _cell(programs: list[Report | None]) -> str:
    """Of one method on one topology; "" if one of its programs was not compiled."""
    compiled = [program for program in programs if program is not None]
    if len(compiled) < len(programs):
        return ""
    if refused := [program["reason"] for program in compiled if program["memory"] is None]:
        return f"no: {refused[0]}"
    most = max(sum(program["memory"].values()) for program in compiled) / GIB
    parts = max(program["workload"].get("micro_batches", 1) for program in compiled)
    how = f" ({parts} micro-batches)" if parts > 1 else ""
    return f"{'yes' if all(program['fits'] for program in compiled) else '**no**'}, {most:.1f}{how}"


def decode_table(reports: list[Report]) -> list[str]:
    """Kernels, bytes and collectives of decode steps; nothing if no result has one."""
    reports = [report for report in reports if report.get("decode")]
    if not reports:
        return []
    lines = [
        "## A decode step",
        "",
        "Counted in the compiled rollouts, a mean over the steps. *Kernels* is everything that a card launches: "
        "*ours* (Pallas, on one card: attention, norms with the sums before them, products for query, key and value, "
        "output and down), *products* (fusions with a matrix product, calls of cuBLAS), other *fusions*, *copies* (of "
        "slices and whole arrays), collectives and other calls; in all loops, such as that over the layers, as often "
        "as they run. *GB read* are the operands of all these on one card, of a slice the slice alone, of our "
        "kernels' caches all room, also what is not written yet and not read; the floor is every weight once and the "
        "live part of the caches (`lam_jax.train.counting.decode_bytes`). *Sums* are all collectives. Programs that "
        "do not fit recompute and copy more, and another jax fuses otherwise.",
        "",
        *HISTORY,
        "",
        "| rollout | precision | topology | jax | kernels | ours | products | fusions | copies | GB read | / floor | "
        "sums |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for report in reports:
        step, card = report["decode"], unit_of(report) == "card"
        launches = step["launches"]
        kinds = ("Pallas kernels", "products", "fusions", "copies")
        counts = [sum(launches.values()), *(launches.get(kind, 0) for kind in kinds)]
        cells = [f"{report['preset']} {report['stage']}", report["dtype"], report["topology"]]
        cells.append(report["versions"].get("jax", "-"))
        cells += [f"{count:,.0f}" if card else "-" for count in counts]
        cells += [f"{step['bytes_read'] / 1e9:.2f}", f"{step['bytes_read'] / step['floor']:.2f}"]
        lines.append(f"| {' | '.join(cells)} | {step['collectives']:,.0f} |")
    return [*lines, ""]
