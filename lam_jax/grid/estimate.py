"""How long cells will take, from the phases of those that are done; a shared phase counts once."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from lam_jax.grid.plan import PlannedCell
from lam_jax.pipeline.plan import phases_of
from lam_jax.runs.time_left import TimeLeft


class Estimate:
    """Seconds of phases by name, means over the cells that trained them.

    Args:
        done: results of cells.
    """

    def __init__(self, done: Sequence[Mapping[str, Any]]):
        times: dict[str, list[float]] = {}
        for record in done:
            for phase in record["phases"]:
                # A phase of another task takes about as long: better than to know nothing.
                for name in (phase["name"], _kind(phase["name"], record)):
                    times.setdefault(name, []).append(phase["seconds"])
        self._seconds = {name: sum(found) / len(found) for name, found in times.items()}

    def of(
        self, cells: Sequence[PlannedCell], all_cells: Sequence[PlannedCell], done: Collection[str] = ()
    ) -> TimeLeft | None:
        """Of some cells in this order, after those of identities `done`; None where nothing is known."""
        trained = {key for cell in all_cells if cell.identity in done for key in cell.planned.values()}
        times = [time for cell in cells for time in self._each(cell, trained)]
        known = [time for time in times if time is not None]
        return TimeLeft(sum(known), None not in times) if known else None

    def _each(self, planned: PlannedCell, trained: set[str]) -> list[float | None]:
        """Seconds of each of a cell's phases; adds those that are shared to `trained`."""
        times: list[float | None] = []
        tasks = [task.name for task in planned.cell.recipe.tasks]
        for phase in phases_of(planned.cell.recipe):
            key = planned.planned.get(phase)
            if key is not None and key in trained:
                continue
            if key is not None:
                trained.add(key)
            found = self._seconds.get(phase, self._seconds.get(_without(phase, tasks)))
            times.append(found)
        return times


def _kind(phase: str, record: Mapping[str, Any]) -> str:
    return _without(phase, list(record.get("tasks", {})))


def _without(phase: str, tasks: Sequence[str]) -> str:
    """A phase's name without its task's."""
    for task in tasks:
        if phase.endswith(f"_{task}"):
            return f"{phase.removesuffix(task)}*"
    return phase
