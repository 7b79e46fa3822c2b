"""One run of a benchmark module: options, floors before and after, records, the table and the JSON."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console

from benchmarks.floors import Peaks, measure_peaks
from benchmarks.harness import Run, Settings, Times, compare
from benchmarks.records import Record, document, environment, write
from benchmarks.statistics import Estimate, Target, estimate, ratio
from benchmarks.table import show
from benchmarks.targets import MID
from benchmarks.workload import WORKLOADS, Workload
from lam_jax.cpu.host_memory import keep_host_memory
from lam_jax.hosts.compilation import CompileClock
from lam_jax.nn.stored import Storage

Floor = Callable[[Peaks], float]


@dataclasses.dataclass(frozen=True)
class Options:
    """Command line of every module.

    Attributes:
        preset: whose sizes are run.
        json: where the records go; default: nowhere.
        repeats: timed rounds.
        patience: contended repeats that may be thrown away in each comparison before they are kept and counted.
        rollout_weights: how rollouts of codes hold the frozen backbone, too, besides as everything else: "bfloat16",
            "int8" or both; in `rollout` and `against_torch`.
    """

    preset: str = "mid"
    json: Path | None = None
    repeats: int = 9
    patience: int = 27
    rollout_weights: tuple[Storage, ...] = ()

    def __post_init__(self):
        if self.preset not in WORKLOADS:
            raise ValueError(f"--preset {self.preset!r} has no workload; choose one of {sorted(WORKLOADS)}.")


class RecompiledError(RuntimeError):
    """A program was compiled again after warm-up."""


class Session:
    """Collects figures; floors are those of the better of two measurements, at the start and at the end."""

    def __init__(self, options: Options, console: Console | None = None):
        self.options = options
        self.console = console or Console(stderr=True)
        self.work: Workload = WORKLOADS[options.preset]
        self.targets: dict[str, Target] = MID if options.preset == "mid" else {}
        self.kept = keep_host_memory()
        self.before = measure_peaks(self.work.config.compute_dtype)
        self._drafts: list[Callable[[Peaks], Record]] = []
        self.thrown_away = 0
        self.contended = 0

    def compare(self, candidates: dict[str, Run], settle: float = 0.25) -> Times:
        """Interleaved times of candidates.

        Raises:
            RecompiledError: something was compiled after the warm-up.
        """
        settings = Settings(self.options.repeats, 1, patience=self.options.patience, settle=settle)
        self.say(f"timing {', '.join(candidates)}")
        for run in candidates.values():
            for _ in range(2):  # what a first step leaves behind may lie elsewhere than what it found
                run()
        with CompileClock() as clock:
            times = compare(candidates, settings)
        if clock.programs:
            raise RecompiledError(f"{clock.programs} compilations while timing {sorted(candidates)}.")
        self.thrown_away += times.thrown_away
        self.contended += times.contended
        return times

    def add(
        self,
        name: str,
        samples: Sequence[float],
        unit: str,
        floor: Floor | None = None,
        note: str = "",
    ) -> None:
        """A figure from repeats."""
        found, target = estimate(samples), self.targets.get(name)
        self._drafts.append(
            lambda peaks: Record.measured(name, found, unit, floor(peaks) if floor else None, target, note)
        )

    def add_ratio(self, name: str, over: Sequence[float], under: Sequence[float], note: str = "") -> None:
        """The median over rounds of `over / under`."""
        found, target = ratio(over, under), self.targets.get(name)
        self._drafts.append(lambda peaks: Record.measured(name, found, "ratio", None, target, note))

    def add_share(self, name: str, seconds: Sequence[float], floor: Floor) -> None:
        """Share of the floor's speed that was reached: floor / seconds."""
        found, target = estimate(seconds), self.targets.get(name)

        def draft(peaks: Peaks) -> Record:
            best = floor(peaks)
            share = Estimate(best / found.value, best / found.high, best / found.low, found.repeats)
            return Record.measured(name, share, "share", 1.0, target)

        self._drafts.append(draft)

    def add_over_floor(self, name: str, seconds: Sequence[float], floor: Floor) -> None:
        """How many times the floor was needed: seconds / floor."""
        found, target = estimate(seconds), self.targets.get(name)

        def draft(peaks: Peaks) -> Record:
            best = floor(peaks)
            times = Estimate(found.value / best, found.low / best, found.high / best, found.repeats)
            return Record.measured(name, times, "ratio", 1.0, target)

        self._drafts.append(draft)

    def add_counted(self, name: str, value: float, unit: str, note: str = "") -> None:
        """A figure that was counted, not timed."""
        self._drafts.append(lambda peaks: Record(name, float(value), unit, counted=True, note=note))

    def say(self, line: str) -> None:
        """Progress on the console."""
        self.console.print(line, style="dim", highlight=False)

    def finish(self) -> list[Record]:
        """Measures the floors again, prints the table, writes the JSON."""
        after = measure_peaks(self.work.config.compute_dtype)
        peaks = self.before.best(after)
        records = [draft(peaks) for draft in self._drafts]
        facts = environment(
            preset=self.options.preset,
            workload=dataclasses.asdict(self.work),
            peaks={"before": dataclasses.asdict(self.before), "after": dataclasses.asdict(after)},
            thrown_away=self.thrown_away,
            contended=self.contended,
            host_memory_kept=self.kept,
        )
        content = document(records, facts)
        if self.options.json is not None:
            write(self.options.json, content)
        show(content, self.console)
        return records
