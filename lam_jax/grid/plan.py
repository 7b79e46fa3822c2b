"""The cells of a grid with their identities: what the files that they name hold is hashed, nothing is run."""

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from lam_jax.errors import BadSettingError, LamJaxError
from lam_jax.grid.grid import Cell, Grid
from lam_jax.pipeline.content import content_of
from lam_jax.pipeline.shares import Shares
from lam_jax.recipe import Recipe
from lam_jax.values import fingerprint


@dataclasses.dataclass(frozen=True)
class PlannedCell:
    """A cell of a grid that is to be run.

    Attributes:
        cell: which.
        identity: hash of its recipe and of the content of rows, model and rewards; a run folder's fingerprint.
        planned: its phases that may be shared, see `Shares.planned`.
        failure: why its content cannot be read; "" where it can.
    """

    cell: Cell
    identity: str
    planned: Mapping[str, str]
    failure: str = ""


def plan_cells(grid: Grid) -> tuple[PlannedCell, ...]:
    """The cells of a grid with their identities; reads (hashes) the files of models and rows once.

    Raises:
        BadSettingError: see `Grid.cells`.
    """
    contents: dict[str, dict[str, Any]] = {}

    def planned(cell: Cell) -> PlannedCell:
        recipe, named = cell.recipe, _named(cell.recipe)
        try:
            content = contents[named] if named in contents else content_of(recipe)
        except (LamJaxError, OSError, ValueError) as error:
            return PlannedCell(cell, "", {}, str(error) or type(error).__name__)
        contents[named] = content
        identity = fingerprint({"recipe": recipe, "content": content})
        return PlannedCell(cell, identity, Shares(recipe, content, None).planned)

    return tuple(planned(cell) for cell in grid.cells())


def _named(recipe: Recipe) -> str:
    """Hash of what a recipe names outside itself."""
    corpora = [recipe.paired.rows, *([] if recipe.text_only is None else [recipe.text_only.rows])]
    tasks = [(task.name, task.rows, task.reward, task.evaluation_reward) for task in recipe.tasks]
    return fingerprint({"model": recipe.model.folder, "corpora": corpora, "tasks": tasks})


def require_cells(only: Collection[str], cells: Sequence[PlannedCell]) -> None:
    """Refuses names that no cell has.

    Raises:
        BadSettingError: the message lists the cells.
    """
    names = [cell.cell.name for cell in cells]
    if unknown := [name for name in only if name not in names]:
        raise BadSettingError(
            f"--only: found {unknown[0]!r}, expected some of the cells {', '.join(names[:8])}"
            f"{', ..; --list prints all' if len(names) > 8 else ''}."
        )


def plan_record(grid: Grid, cells: Sequence[PlannedCell]) -> dict[str, Any]:
    """What tables have to know of a grid: its cells and their identities."""
    listed = [{"cell": c.cell.name, "identity": c.identity, "axes": dict(c.cell.axes)} for c in cells]
    return {"name": grid.name, "cells": listed}
