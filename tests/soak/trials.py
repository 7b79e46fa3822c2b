"""Trials of `make soak`: a run is interrupted at random steps, resumed, and compared with one that was left alone.

Interruptions: kill -9; SIGTERM; a disk that is full, which is a limit on the size of files (RLIMIT_FSIZE) that is set
on the running process from outside, so that writing checkpoint data fails and no privileges are needed; kill -9 and
SIGTERM of one of two processes, each under its watchdog.
"""

import dataclasses
import json
import os
import random
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

from lam_jax.errors import NoSpaceError, PreemptedError
from lam_jax.hosts.watchdog import PEER_ENDED
from lam_jax.runs.metrics import comparable, read_metrics
from lam_jax.runs.record import read_record
from tests.host_devices import several_devices
from tests.soak.child import STAGES, UPDATES

ROOT = Path(__file__).parents[2]
TWO = "one of two killed", "SIGTERM to one of two"
KINDS = ("kill -9", "SIGTERM", "disk full", *TWO)
FILE_LIMIT = 60_000  # bytes: more than a log, less than an array
HALF_WRITTEN = ("*.orbax-checkpoint-tmp*", "*.deleting", "*.new", "*.damaged")
CHILD = [sys.executable, "-m", "tests.soak.child"]
PATIENCE = 300.0


@dataclasses.dataclass
class Trial:
    """What was done to a run and what became of it.

    Attributes:
        kind: of the interruptions.
        steps: the update at which each fell.
        codes: exit codes of the interrupted processes.
        problems: what is not as it should be; empty if all is well.
    """

    kind: str
    steps: list[int]
    codes: list[int]
    problems: list[str]


class Child:
    """A started run; `at` is the update that it has announced last."""

    def __init__(self, folder: Path, log: Path, devices: int = 1, number: int | None = None, address: str = ""):
        environment = (
            os.environ
            | several_devices(devices, processes=2 if address else 1)
            | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
        )
        # Compiled programs are kept as those of the tests are: most of a start would be compilation.
        cache = {"CACHE_DIR": str(ROOT / ".jax_cache"), "CACHE_MAX_SIZE": str(2 * 2**30)}
        environment = {f"JAX_COMPILATION_{name}": value for name, value in cache.items()} | environment
        environment["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
        command = [*CHILD, str(folder)]
        self.beats = folder.parent / "beats"
        if number is not None:
            names = ("LAM_JAX_COORDINATOR", "LAM_JAX_PROCESSES", "LAM_JAX_PROCESS")
            environment |= dict(zip(names, (address, "2", str(number)), strict=True))
            command = [*WATCH, "--folder", str(self.beats), "--", *command]
        self.log = log
        self.number = number
        with log.open("ab") as complaints:
            self.process = subprocess.Popen(
                command, env=environment, cwd=ROOT, stdout=subprocess.PIPE, stderr=complaints, text=True
            )
        self.at = 0
        self._news = threading.Condition()
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def _listen(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as lines:
            for line in lines:
                if line.startswith("at "):
                    with self._news:
                        self.at = int(line.split()[1])
                        self._news.notify_all()
        with self._news:
            self.at = UPDATES + 1
            self._news.notify_all()

    def wait_for(self, step: int) -> None:
        """Returns when update `step` has begun or the run has ended."""
        with self._news:
            self._news.wait_for(lambda: self.at >= step, timeout=PATIENCE)

    def kill(self) -> None:
        """kill -9 of the training process itself."""
        pid = self.process.pid
        if self.number is not None:
            pid = json.loads((self.beats / f"process_{self.number}.child.json").read_text())["pid"]
        os.kill(pid, signal.SIGKILL)

    def end(self) -> int:
        """Its exit code."""
        code = self.process.wait(timeout=PATIENCE)
        self._listener.join()
        return code


WATCH = [sys.executable, "-m", "lam_jax", "watch", "--grace", "2", "--patience", str(PATIENCE)]


def start(folder: Path, kind: str) -> list[Child]:
    """The processes of a run."""
    log = folder.parent / "log"
    if kind not in TWO:
        return [Child(folder, log)]
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        address = f"localhost:{probe.getsockname()[1]}"
    return [Child(folder, log, 2, number, address) for number in range(2)]


def interrupt(children: list[Child], kind: str, rng: random.Random) -> None:
    """Does it to the run, a few milliseconds after an update was seen to begin."""
    time.sleep(rng.uniform(0, 0.02))
    victim = rng.choice(children)
    if victim.process.poll() is not None:
        return
    if kind.startswith("SIGTERM"):
        victim.process.send_signal(signal.SIGTERM)
    elif kind == "disk full":
        resource.prlimit(victim.process.pid, resource.RLIMIT_FSIZE, (FILE_LIMIT, resource.RLIM_INFINITY))
    else:
        victim.kill()


def expected_codes(kind: str) -> set[int]:
    """Of a process that was interrupted; 0 if it was done already."""
    return {
        "kill -9": {0, -signal.SIGKILL},
        "SIGTERM": {0, PreemptedError.exit_code},
        "SIGTERM to one of two": {0, PreemptedError.exit_code},
        "disk full": {0, NoSpaceError.exit_code},
        "one of two killed": {0, 128 + signal.SIGKILL, PEER_ENDED},
    }[kind]


def finished(folder: Path) -> dict[str, object]:
    """What a complete run left: hashes of the weights after each stage, and its metrics."""
    return {
        "weights": {
            name: {array: entry["checksum"] for array, entry in read_record(folder / "phases" / name)["arrays"].items()}
            for name in STAGES
        },
        "metrics": [comparable(record) for record in read_metrics(folder / "metrics.jsonl")],
    }


def uninterrupted(folder: Path, kind: str) -> dict[str, object]:
    """Runs without interruption, in as many processes: their number decides how sums are rounded."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    codes = [child.end() for child in start(folder, kind)]
    if any(codes):
        raise RuntimeError(f"The uninterrupted run ended with {codes}: {(folder.parent / 'log').read_text()[-2000:]}")
    return finished(folder)


def run_trial(base: Path, kind: str, seed: int, whole: dict[str, object], most: int = 3) -> Trial:
    """One to `most` interruptions of a run in `base`, then a last start that is left alone."""
    rng = random.Random(seed)
    base.mkdir(parents=True)
    folder = base / "run"
    trial = Trial(kind, sorted(rng.sample(range(2, UPDATES), rng.randint(1, most))), [], [])
    for step in trial.steps:
        children = start(folder, kind)
        rng.choice(children).wait_for(step)
        interrupt(children, kind, rng)
        for child in children:
            code = child.end()
            trial.codes.append(code)
            if code not in expected_codes(kind):
                trial.problems.append(f"exit code {code} after {kind} at {step}")
    codes = [child.end() for child in start(folder, kind)]
    if any(codes):
        trial.problems.append(f"the resumed run ended with {codes}: {(base / 'log').read_text()[-500:]}")
        return trial
    found = finished(folder)
    trial.problems += [f"{name} differ from the uninterrupted run" for name in whole if found[name] != whole[name]]
    left = [path.name for pattern in HALF_WRITTEN for path in folder.rglob(pattern)]
    left += [path.name for path in (folder / "phase_checkpoints").glob("*")]
    if left:
        trial.problems.append(f"left over: {left}")
    return trial
