"""`make soak`: `python -m tests.soak [--trials N] [--seed S]`; the exit code is 1 if any trial fails."""

import argparse
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.soak.trials import KINDS, TWO, run_trial, uninterrupted


def main() -> int:
    parser = argparse.ArgumentParser(description="Interrupts small runs at random steps and resumes them.")
    parser.add_argument("--trials", type=int, default=25)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    console = Console()
    table = Table("trial", "interrupted by", "at updates (of 36)", "exit codes", "resumed", box=None)
    failures = 0
    with tempfile.TemporaryDirectory(prefix="soak_") as name:
        base = Path(name)
        whole = {
            two: uninterrupted(base / f"whole_{two}" / "run", TWO[0] if two else KINDS[0]) for two in (False, True)
        }
        for index in range(options.trials):
            kind = KINDS[index % len(KINDS)]
            seed = 1000 * options.seed + index
            trial = run_trial(base / str(index), kind, seed, whole[kind in TWO])
            failures += bool(trial.problems)
            steps, codes = (" ".join(map(str, values)) for values in (trial.steps, trial.codes))
            result = "; ".join(trial.problems) or "bit-identical"
            table.add_row(str(index), kind, steps, codes, result)
            console.print(f"trial {index}: {kind} at {steps}: {result}", highlight=False, soft_wrap=True)
    console.print(table)
    console.print(f"{options.trials - failures} of {options.trials} trials bit-identical, nothing left half-written")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
