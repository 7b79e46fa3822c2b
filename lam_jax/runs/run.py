"""A run's folder: whose it is, which phases are complete, and how long each took.

    with Run(Path("runs/demo"), config) as run:
        inverse = run.phase("stage1_inverse", lambda: train_inverse(agent), like=agent.latent)
        joint = run.phase("stage3_joint", lambda: train_joint(inverse.tree), like=agent.latent)

A phase is checkpointed when it is complete, and on the way by the `tools` that its training loop is given. A run that
is killed and started again restores the complete phases and goes on inside the one in progress.

With several processes all open the same folder: the first writes what is written once, each writes its own shards.
"""

import dataclasses
import errno
import json
import logging
import re
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax

from lam_jax.errors import (
    BadSettingError,
    DamagedCheckpointError,
    LamJaxError,
    NoSpaceError,
    OtherConfigurationError,
    RunFolderBusyError,
    UnwritableFolderError,
)
from lam_jax.hosts import heartbeat
from lam_jax.hosts.compilation import CompileClock
from lam_jax.parallel.multihost import all_agree, barrier, from_first, is_first
from lam_jax.runs.checkpoint import remove_unfinished, restore_checkpoint, save_checkpoint
from lam_jax.runs.disk import is_no_space
from lam_jax.runs.lock import HeldError, Lock, acquire
from lam_jax.runs.metrics import MetricsWriter, read_metrics
from lam_jax.runs.phase_checkpoint import PhaseSaver
from lam_jax.runs.phase_store import PhaseStore
from lam_jax.runs.profiler import Profiler
from lam_jax.runs.progress import Progress, duration
from lam_jax.runs.retention import set_aside
from lam_jax.runs.rollouts import RolloutLog
from lam_jax.runs.samples import SampleLog
from lam_jax.runs.sinks import Sink, open_sinks
from lam_jax.runs.stop import StopRequest
from lam_jax.runs.time_left import Schedule, ScheduledPhase
from lam_jax.runs.tools import Tools
from lam_jax.runs.watching import Watching
from lam_jax.values import differences, encode, hash_json

logger = logging.getLogger("lam_jax")
LOCK = ".lock"
_REMEDIES = {
    errno.EACCES: "Give this user the right to write there. Or: ",
    errno.EPERM: "Give this user the right to write there. Or: ",
    errno.EROFS: "Its file system is mounted read-only: mount it for writing. Or: ",
}


@dataclasses.dataclass(frozen=True)
class PhaseResult:
    """What a phase left.

    Attributes:
        tree: arrays, as its function returned them.
        record: JSON values, as its function returned them.
        seconds: wall-clock time of the run of the phase that completed it.
        compile_seconds: of which XLA compiled.
        resumed: restored from its checkpoint instead of run.
        steps: training steps that were done in those seconds; None: it has none.
        environment: of the process that completed it; empty where none was told.
    """

    tree: Any
    record: dict[str, Any]
    seconds: float
    compile_seconds: float
    resumed: bool
    steps: int | None = None
    environment: dict[str, Any] = dataclasses.field(default_factory=dict)


class Run:
    """An output folder, locked while it is open.

    Attributes:
        folder: holds config.json, metrics.jsonl, tensorboard/, phases/, phase_checkpoints/; see docs/watching.md.
        watching: what is shown while it goes on.
        metrics: writer of the records.
        samples: log of sample answers.
        rollouts: log of whole rollouts.
        progress: where progress is shown.
        results: of the phases so far by name, in order.
        stop: whether the run was asked to stop.
        profiler: traces steps of a phase.
    """

    def __init__(
        self,
        folder: str | Path,
        config: Any,
        progress: Progress | None = None,
        save_every: int = 0,
        profile: str | None = None,
        may_change: Callable[[str], bool] | None = None,
        watching: Watching | None = None,
        environment: Callable[[], dict[str, Any]] = dict,
    ):
        """Opens or makes the folder.

        Args:
            folder: one that every process sees.
            config: whatever the results depend on; dataclasses and JSON values.
            progress: where progress is shown; default: the console of the first process.
            save_every: optimiser updates between two checkpoints inside a phase; 0: only when asked to stop.
            profile: phase of which a few steps are traced into profile/.
            may_change: entries of the configuration, by their places, that may differ from the folder's; it gets the
                new ones, and a list of what it had before.
            watching: what is shown and logged while it goes on; the same on every process. Default: `Watching()`.
            environment: tells versions and devices, JSON values; asked when a phase was run, and kept with it.

        Raises:
            BadSettingError: `save_every` below 0.
            OtherConfigurationError: the folder holds what another configuration made, or something else.
            RunFolderBusyError: another process has it open.
            SinkError: a sink of `watching` cannot be opened.
            UnwritableFolderError, NoSpaceError: it cannot be made or written.
            BrokenLinesError: its metrics cannot be read.
        """
        if save_every < 0:
            raise BadSettingError(
                f"save_every: found {save_every}, expected a number of updates, or 0 to save only when asked to stop."
            )
        self.folder = Path(folder).absolute()
        self.progress = progress or Progress(enabled=is_first())
        self.save_every = save_every
        self.watching = watching or Watching()
        self.environment = environment
        self.results: dict[str, PhaseResult] = {}
        self.phases = self.folder / "phases"
        self._may_change = may_change or (lambda place: False)
        self._lock: Lock | None = None
        self._schedule: Schedule | None = None
        self._store: PhaseStore | None = None
        sinks: list[Sink] = []
        failure: LamJaxError | None = None
        if is_first():
            try:
                sinks = self._open(encode(config))
            except LamJaxError as error:
                failure = error
                self._unlock()
        if not all_agree(failure is None):
            raise failure or LamJaxError(f"{self.folder}: process 0 could not open it; its message says why.")
        self.metrics = MetricsWriter(self.folder, is_first(), sinks)
        self.samples = SampleLog(self.folder, is_first())
        self.rollouts = RolloutLog(self.folder, is_first())
        self.stop = StopRequest()
        self.profiler = Profiler(self.folder / "profile", profile)

    def _open(self, config: Any) -> list[Sink]:
        try:
            self._make()
            self._lock = self._acquire()
            self._claim(config)
            self.phases.mkdir(exist_ok=True)
            remove_unfinished(self.phases)
            # Here, where all processes hear of a damaged file, and not when the first phase begins.
            read_metrics(self.folder / "metrics.jsonl")
            return open_sinks(self.watching.sinks, self.folder, config)
        except OSError as error:
            if is_no_space(error):
                raise NoSpaceError(
                    f"{self.folder}: no space to open the run ({error}). Free space on that disk, then run the same "
                    "command again."
                ) from error
            raise UnwritableFolderError(
                f"{self.folder}: cannot be used as an output folder: {error.strerror or error} "
                f"({error.filename or self.folder}). {_REMEDIES.get(error.errno or 0, '')}Choose another one."
            ) from error

    def __enter__(self) -> "Run":
        self.stop.__enter__()
        return self

    def __exit__(self, kind: Any = None, error: Any = None, trace: Any = None) -> None:
        try:
            self.stop.__exit__(kind, error, trace)
        finally:
            self.close()

    def close(self) -> None:
        """Closes the logs and unlocks the folder."""
        for log in (self.metrics, self.samples, self.rollouts):
            log.close()
        self._unlock()

    def _unlock(self) -> None:
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def follow(self, phases: Sequence[ScheduledPhase]) -> None:
        """Says from now on which phase of these begins, and about how long the run will take, where that is known."""
        self._schedule = Schedule(phases, self.results)
        self.progress.after = self._schedule.after

    def share(self, store: PhaseStore) -> None:
        """From now on phases that the store has are taken from it, and others that may be shared are added."""
        self._store = store

    def tools(self, name: str) -> Tools:
        """What the training loop of the phase `name` needs, checkpoints on the way among it."""
        saver = PhaseSaver(self._phase_checkpoints(name), self.save_every, stop=self.stop)
        return Tools(self.metrics, self.progress, saver, self.profiler, (self.samples, self.rollouts))

    def _phase_checkpoints(self, name: str) -> Path:
        return self.folder / "phase_checkpoints" / name

    def _make(self) -> None:
        # A process that was killed before it wrote config.json leaves the lock's file alone.
        found = [path.name for path in self.folder.iterdir()] if self.folder.exists() else []
        if "config.json" not in found and any(not name.startswith(LOCK) for name in found):
            raise OtherConfigurationError(
                f"{self.folder} is not empty and holds no run (no config.json). Choose another output folder."
            )
        self.folder.mkdir(parents=True, exist_ok=True)

    def _claim(self, config: Any) -> None:
        file = self.folder / "config.json"
        if file.exists():
            try:
                content = json.loads(file.read_text(encoding="utf-8"))
                found = content["config"]
            except (ValueError, KeyError, TypeError) as error:
                raise OtherConfigurationError(
                    f"{file}: not the configuration of a run ({error!r}). Choose another output folder."
                ) from error
            lines = differences(found, json.loads(json.dumps(config)))
            refused = [line for line in lines if not self._may_change(line.partition(": ")[0])]
            if refused and not self._is_unused():
                more = f"; and {len(refused) - 5} more" if len(refused) > 5 else ""
                raise OtherConfigurationError(
                    f"{self.folder} belongs to a run with another configuration: {'; '.join(refused[:5])}{more}. "
                    "Choose another output folder, use the same flags, or delete the folder."
                )
            if lines:
                self._write_config(config, [] if refused else [*content.get("changes", ()), lines])
            return
        self._write_config(config, [])

    def _is_unused(self) -> bool:
        """Whether nothing there was made under its configuration: a start that failed does not bind the folder."""
        kept = [*self.folder.glob("phases/*"), *self.folder.glob("phase_checkpoints/*/*")]
        return not kept and not read_metrics(self.folder / "metrics.jsonl")

    def _write_config(self, config: Any, changes: list[Any]) -> None:
        content = {"fingerprint": hash_json(config), "config": config}
        if changes:
            content["changes"] = changes
        file = self.folder / "config.json"
        new = file.with_name("config.json.new")
        new.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        new.replace(file)

    def _acquire(self) -> Lock:
        try:
            return acquire(self.folder / LOCK)
        except HeldError as error:
            raise RunFolderBusyError(
                f"{self.folder} is in use by {error}. Wait until it ends or choose another output folder."
            ) from error

    def phase(
        self, name: str, function: Callable[[], tuple[Any, dict[str, Any]]], like: Any = None, shared: bool = False
    ) -> PhaseResult:
        """The result of a phase: restored if it is complete, else run and checkpointed.

        Args:
            name: of its folder and in the report.
            function: runs the phase; returns a pytree of arrays (or None) and a record of JSON values.
            like: arrays or shape structs like the pytree, whose dtypes and shardings a restored one gets.
            shared: two parts of the run begin with it; the second one gets it restored.

        A damaged checkpoint is reported on the error log and set aside, and its phase is run again.

        Raises:
            CheckpointMismatchError: the checkpoint holds other arrays than `like`.
            NoSpaceError: the result could not be saved.
            PreemptedError: the run was asked to stop (InterruptedRunError: by Ctrl-C).
        """
        if not re.fullmatch(r"[A-Za-z0-9_.-]+", name):
            raise ValueError(f"Phase name {name!r}: expected letters, digits, '_', '.' and '-' only.")
        path, again = self.phases / name, name in self.results
        if again and not shared:
            raise ValueError(f"Phase {name!r} was already asked for in this run; names must differ.")
        if self.stop.visit():
            raise self.stop.error(f"before phase {name}. Run the same command again to go on there.")
        heartbeat.beat(name)
        store = self._store if is_first() else None
        if store is not None:
            store.take(path)
        result = self._restored(path, like)
        if result is None:
            if store is not None:
                store.discard(path)
            result = self._run(path, function)
        if again:
            return result
        if store is not None:
            store.keep(path)
        if is_first():
            # Also after a restore: the process may have been killed between saving the phase and this.
            shutil.rmtree(self._phase_checkpoints(name), ignore_errors=True)
        self.results[name] = result
        took = f"{duration(result.seconds)} (compiling {duration(result.compile_seconds)})"
        self.progress.say(f"{name}: {'restored, had taken ' if result.resumed else ''}{took}")
        return result

    def _restored(self, path: Path, like: Any) -> PhaseResult | None:
        if not from_first(int(path.exists())):
            return None
        try:
            tree, saved = restore_checkpoint(path, like)
        except DamagedCheckpointError as error:
            logger.error("%s It is set aside and the phase is run again from the one before.", error)
            barrier(f"damaged {path.name}")
            if is_first():
                set_aside(path)
            return None
        return PhaseResult(
            tree,
            saved["record"],
            saved["seconds"],
            saved["compile_seconds"],
            True,
            saved.get("steps"),
            saved.get("environment", {}),
        )

    def _run(self, path: Path, function: Callable[[], tuple[Any, dict[str, Any]]]) -> PhaseResult:
        if self._schedule is not None and (begins := self._schedule.begins(path.name)):
            self.progress.say(begins)
        began = time.monotonic()
        with CompileClock() as clock:
            tree, record = function()
            jax.block_until_ready(tree)
        seconds, compile_seconds = round(time.monotonic() - began, 3), round(clock.seconds, 3)
        steps = self.progress.steps.get(path.name)
        result = PhaseResult(tree, record, seconds, compile_seconds, False, steps, self.environment())
        times = {"seconds": seconds, "compile_seconds": compile_seconds, "steps": steps}
        save_checkpoint(path, tree, {"record": record, **times, "environment": result.environment})
        return result

    def timings(self) -> list[dict[str, Any]]:
        """Name, seconds and compile_seconds of each phase so far, as the report shows them."""
        return [
            {"name": name, "seconds": result.seconds, "compile_seconds": result.compile_seconds}
            for name, result in self.results.items()
        ]
