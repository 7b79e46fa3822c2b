"""Compares lam_jax with the numbers of a golden set.

    python -m tests.parity.golden ../shared/parity public
    python -m tests.parity.golden ../shared/parity processor_public

Prints one line for every array of the set and exits with 1 if any of them fails, or is not known here.
"""

import argparse
import sys
from pathlib import Path

import jax
import numpy as np
from rich.console import Console
from rich.table import Table

from tests.parity import processor_set
from tests.parity.case import Arrays, Case
from tests.parity.checks import Check, Verdict, judge
from tests.parity.generation import generation
from tests.parity.grpo import check_grpo
from tests.parity.patch_order import in_patch_order
from tests.parity.released import load, round_trip
from tests.parity.stage_gradients import gradients
from tests.parity.stage_outputs import outputs

INPUTS = ("input_ids", "attention_mask", "labels")


def verdicts(folder: Path, name: str) -> list[Verdict]:
    """One verdict for every array of the set."""
    if name.startswith("processor"):
        return processor_set.verdicts(folder, name)
    case = Case(folder, name)
    return [verdict for part in case.parts() for verdict in part_verdicts(case, part)]


def part_verdicts(case: Case, part: str) -> list[Verdict]:
    """One verdict for every array of SET_`part`.npz."""
    reference = case.arrays(part)
    checks = _checks(case, part, reference)
    return [judge(f"{part}: {key}", checks.get(key), value) for key, value in reference.items()]


def _checks(case: Case, part: str, reference: Arrays) -> dict[str, Check]:
    """What we have for the arrays of SET_`part`.npz."""
    if part == "weights":
        return round_trip(case)
    if part == "inputs":
        names = {f"{name}_{kind}" for name in INPUTS for kind in ("mm", "txt")} | {"pixel_values", "image_grid_thw"}
        return {name: Check(None, "input") for name in names} | case.labels()
    if part == "grpo":
        compared = check_grpo(reference)
        return {key: Check(ours, "gradient" if key.endswith("grad_logps") else "output") for key, ours, _ in compared}
    agent = in_patch_order(load(case))
    if part == "outputs":
        return outputs(agent, case, reference)
    if part == "generation":
        return generation(agent, case, reference)
    if part.startswith("grads_"):
        return gradients(part.removeprefix("grads_"), agent, case, reference) or {}
    return {}


def report(found: list[Verdict], console: Console) -> bool:
    """Prints the table; whether everything passed."""
    table = Table("array", "max abs error", "max rel error", "tolerance", "result", box=None, pad_edge=False)
    for column in table.columns:
        column.no_wrap = True
    for verdict in found:
        numbers = ("-", "-") if np.isnan(verdict.absolute) else (f"{verdict.absolute:.2e}", f"{verdict.relative:.2e}")
        result = "[green]pass[/]" if verdict.passed else "[red]FAIL[/]"
        table.add_row(verdict.name, *numbers, verdict.tolerance, f"{result} {verdict.note}".strip())
    console.print(table)
    failed = [verdict.name for verdict in found if not verdict.passed]
    console.print(f"{len(found) - len(failed)} of {len(found)} arrays pass.")
    return bool(found) and not failed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder of the golden files")
    parser.add_argument("set", help="name of the set, such as public or processor_public")
    arguments = parser.parse_args()
    # The reference multiplied in full float32; accelerators would otherwise round the factors.
    with jax.default_matmul_precision("highest"):
        found = verdicts(arguments.folder, arguments.set)
    # Wide enough for every name, so that a line of the table stays a line when piped.
    return 0 if report(found, Console(width=220)) else 1


if __name__ == "__main__":
    sys.exit(main())
