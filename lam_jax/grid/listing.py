"""The cells of a grid before they run: which are done, and about how long each will take."""

from collections.abc import Iterator
from pathlib import Path

from lam_jax.grid.estimate import Estimate
from lam_jax.grid.grid import Grid
from lam_jax.grid.plan import plan_cells
from lam_jax.grid.record import read_cells
from lam_jax.runs.time_left import TimeLeft


def listed(grid: Grid, results: Path) -> Iterator[str]:
    """A line for each cell, and one for all that are left; times are those of cells that are done.

    Raises:
        BadSettingError, GridFilesError: see `plan_cells`, `read_cells`.
    """
    cells, done = plan_cells(grid), read_cells(results)
    estimate = Estimate(list(done.values()))
    before: set[str] = set(done)
    for planned in cells:
        if (record := done.get(planned.identity)) is not None:
            yield f"{planned.cell.name}  done, took {record['seconds'] / 3600:.2f} h"
        elif planned.failure:
            yield f"{planned.cell.name}  cannot be run: {planned.failure}"
        else:
            left = estimate.of([planned], cells, before)
            yield f"{planned.cell.name}  {_hours(left)}"
            before.add(planned.identity)
    todo = [planned for planned in cells if planned.identity not in done]
    if todo:
        yield f"{len(todo)} of {len(cells)} cells left: {_hours(estimate.of(todo, cells, done))}"


def _hours(left: TimeLeft | None) -> str:
    return "no time known" if left is None else f"{'about' if left.whole else 'at least'} {left.seconds / 3600:.2f} h"
