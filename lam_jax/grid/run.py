"""Runs the cells of a grid one after the other, each as a run of its own that takes shared phases from a store."""

import time
import traceback
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from lam_jax.errors import BadSettingError, LamJaxError, NoSpaceError, PreemptedError, UnwritableFolderError
from lam_jax.grid.estimate import Estimate
from lam_jax.grid.grid import Grid
from lam_jax.grid.plan import PlannedCell, plan_cells, plan_record, require_cells
from lam_jax.grid.record import PLAN, cell_record, read_cells, write_record
from lam_jax.parallel.multihost import barrier, from_first, is_first
from lam_jax.pipeline import run_recipe
from lam_jax.pipeline.choose import MeshShape
from lam_jax.runs.time_left import roughly
from lam_jax.runs.watching import Watching

Say = Callable[[str], None]
RUNS, PHASES, FAILURES = "cells", "phases", "failures"  # in the grid's folder
_STOPPING = (PreemptedError, NoSpaceError, UnwritableFolderError)  # would end every cell


class FailedCellsError(LamJaxError):
    """Cells of a grid failed; the others are done."""


def run_grid(
    grid: Grid,
    out: str | Path,
    results: str | Path | None = None,
    *,
    only: Collection[str] = (),
    mesh: MeshShape = (1, 1, 1),
    save_every: int = 100,
    watching: Watching | None = None,
    command: Sequence[str] = (),
    say: Say = print,
) -> dict[str, dict[str, Any]]:
    """Runs the cells of a grid whose results are not there yet, and returns all results by cell.

    A cell that fails is reported and the next one begins; a run that is stopped (Ctrl-C, SIGTERM) is saved, and the
    same call goes on. With several processes all call it.

    Args:
        grid: which.
        out: folder of the cells' runs (`cells/`) and of the phases that they share (`phases/`).
        results: folder of the cells' results; default: `out/results`. Another machine that has it goes on from there.
        only: names of cells; these alone are run, and those that are done are run again from the start.
        mesh, save_every, watching: see `lam_jax.run_recipe`.
        command: words of the command, kept with each result.
        say: told what happens, on the first process.

    Raises:
        BadSettingError: an axis or a value that cannot be used, or a name in `only` that no cell has.
        FailedCellsError: cells failed, with the reason of each; after all others were run.
        PreemptedError: the run was asked to stop.
    """
    out = Path(out)
    results = out / "results" if results is None else Path(results)
    cells = plan_cells(grid)
    require_cells(only, cells)
    tell = say if is_first() else _silent
    if is_first():
        write_record(results / PLAN, plan_record(grid, cells))
    done = read_cells(results) if is_first() else {}
    todo = [index for index, cell in enumerate(cells) if _is_wanted(cell, only, done)]
    if done_before := len(cells) - len(todo):
        tell(f"{done_before} of {len(cells)} cells are {'left out' if only else 'done'}.")
    failed: dict[str, str] = {}
    for place, index in enumerate(todo):
        planned = cells[index]
        left = Estimate(list(done.values())).of([cells[i] for i in todo[place:]], cells, done)
        tell(f"cell {place + 1} of {len(todo)}: {planned.cell.name}{f', {left} left' if left else ''}")
        began = time.monotonic()
        try:
            record = _run_cell(planned, out, results, mesh, save_every, watching, command, again=bool(only))
        except _STOPPING:
            raise
        except Exception as error:
            failed[planned.cell.name] = _reported(error, out / FAILURES / f"{planned.cell.name}.txt")
            tell(f"cell {planned.cell.name} failed: {failed[planned.cell.name]}")
            continue
        if record:  # on the first process
            done[planned.identity] = record
        tell(f"cell {planned.cell.name}: done in {roughly(time.monotonic() - began)}")
    if failed:
        reasons = "\n".join(f"  {name}: {reason}" for name, reason in failed.items())
        raise FailedCellsError(
            f"{len(failed)} of {len(todo)} cells failed, the others are done:\n{reasons}\nCorrect what they name and "
            "run the same command again, which runs these alone."
        )
    return {cell.cell.name: done[cell.identity] for cell in cells if cell.identity in done}


def _silent(text: str) -> None:
    pass


def _is_wanted(planned: PlannedCell, only: Collection[str], done: Mapping[str, Any]) -> bool:
    """Whether a cell is to be run, the same on all processes."""
    wanted = planned.cell.name in only if only else planned.identity not in done
    return bool(from_first(int(wanted)))


def _run_cell(
    planned: PlannedCell,
    out: Path,
    results: Path,
    mesh: MeshShape,
    save_every: int,
    watching: Watching | None,
    command: Sequence[str],
    again: bool,
) -> dict[str, Any]:
    """Runs or resumes a cell; its result, which is in its file by then."""
    if planned.failure:
        raise BadSettingError(planned.failure)
    run = run_folder(out, planned)
    if again and is_first():
        _move_finished(run)
    barrier("cell")
    found = run_recipe(
        planned.cell.recipe,
        run,
        mesh=mesh,
        save_every=save_every,
        watching=watching,
        store=out / PHASES,
    )
    if not is_first():
        return {}
    record = cell_record(planned.cell, planned.identity, command, run, found)
    write_record(results / f"{planned.cell.name}.json", record)
    return record


def run_folder(out: Path, planned: PlannedCell) -> Path:
    """Of a cell: another recipe under the same name has another."""
    return out / RUNS / f"{planned.cell.name}.{planned.identity[:8]}"


def _move_finished(run: Path) -> None:
    """Puts a finished run aside, so that it is run again; one that is under way goes on."""
    if (run / "results.json").exists():
        number = 1
        while (target := run.with_name(f"{run.name}.before-{number}")).exists():
            number += 1
        run.rename(target)


def _reported(error: Exception, file: Path) -> str:
    """The error in a line; its stack trace goes into the file."""
    if is_first():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("".join(traceback.format_exception(error)), encoding="utf-8")
    text = str(error) or type(error).__name__
    return text if isinstance(error, LamJaxError) else f"{type(error).__name__}: {text} (stack trace in {file})"
