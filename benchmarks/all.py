"""The whole suite, a process each, and the README's table at the end.

python -m benchmarks.all --preset mid --folder benchmarks/results/cpu
"""

import dataclasses
import subprocess
import sys
import time
from pathlib import Path

import tyro

NAMES = ("rollout", "update", "step", "stages", "against_torch", "memory", "compile")


@dataclasses.dataclass(frozen=True)
class AllOptions:
    """Command line.

    Attributes:
        folder: gets NAME.json of each module.
        preset: whose sizes are run.
        names: modules.
        patience: see `benchmarks.session.Options`.
    """

    folder: Path = Path("benchmarks/results/latest")
    preset: str = "mid"
    names: tuple[str, ...] = NAMES
    patience: int = 27


def main(options: AllOptions) -> int:
    """Runs the modules; the exit status counts those that failed."""
    failed = 0
    files = []
    for name in options.names:
        file = options.folder / f"{name}.json"
        start = time.perf_counter()
        command = [sys.executable, "-m", f"benchmarks.{name}", "--preset", options.preset]
        done = subprocess.run([*command, "--json", str(file), "--patience", str(options.patience)], check=False)
        print(
            f"{name}: {time.perf_counter() - start:.0f} s, exit status {done.returncode}", file=sys.stderr, flush=True
        )
        failed += done.returncode != 0
        files += [str(file)] if done.returncode == 0 else []
    subprocess.run([sys.executable, "-m", "benchmarks.table", *files], check=True)
    return failed


if __name__ == "__main__":
    sys.exit(main(tyro.cli(AllOptions, description=__doc__)))
