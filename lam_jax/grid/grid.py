"""A grid as a value: recipes along axes, and the cells that they make."""

import dataclasses
import inspect
import itertools
import re
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lam_jax.errors import BadSettingError
from lam_jax.recipe import Recipe
from lam_jax.recipes.spaces import in_spaces

SEED = "seed"  # the axis that is averaged over
SPACES = "spaces"  # another action space wants settings of its own


@dataclasses.dataclass(frozen=True)
class Grid:
    """Recipes along axes: a cell for each combination of a recipe and a value of every axis.

    An axis is a parameter of the recipes' functions, or a field of a Recipe by its path, such as `spaces`,
    `method.sft` or `rl.steps`, which is set in what the function returns.

    Attributes:
        name: of the grid.
        recipes: functions that return a Recipe, by the names that cells get.
        axes: values by axis; the first axis changes slowest.
        fixed: parameters and fields of all cells.
        changed: applied to each recipe last, as `lam_jax.recipes.quick.quick`.
    """

    name: str
    recipes: Mapping[str, Callable[..., Recipe]]
    axes: Mapping[str, Sequence[Any]]
    fixed: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    changed: Callable[[Recipe], Recipe] | None = None

    def __post_init__(self):
        if not self.recipes:
            raise BadSettingError(f"Grid {self.name!r}: found no recipe, expected one or more.")
        for axis, values in self.axes.items():
            if not values:
                raise BadSettingError(f"Grid {self.name!r}, axis {axis!r}: found no value, expected one or more.")
            labels = [label_of(axis, value) for value in values]
            if len(set(labels)) < len(labels):
                raise BadSettingError(f"Grid {self.name!r}, axis {axis!r}: found {labels}, expected different values.")
            if axis in self.fixed:
                raise BadSettingError(f"Grid {self.name!r}: {axis!r} is an axis and fixed, expected one of the two.")

    def cells(self) -> tuple["Cell", ...]:
        """All cells, in order.

        Raises:
            BadSettingError: an axis that is neither parameter nor field, a value that a recipe refuses, or two cells
                with one name or one recipe.
        """
        made = []
        for values in itertools.product(*self.axes.values()):
            for label, function in self.recipes.items():
                chosen = dict(zip(self.axes, values))
                shown = {axis: shown_value(value) for axis, value in chosen.items()}
                parts = [label] if len(self.recipes) > 1 or not chosen else []
                name = "_".join([*parts, *(label_of(axis, value) for axis, value in chosen.items())])
                axes = {"recipe": label, **shown} if len(self.recipes) > 1 else shown
                made.append(Cell(name, axes, self._recipe(name, function, {**self.fixed, **chosen})))
        _require_different(made, [cell.name for cell in made], "one name")
        _require_different(made, [cell.recipe.fingerprint() for cell in made], "one recipe")
        return tuple(made)

    def _recipe(self, cell: str, function: Callable[..., Recipe], chosen: Mapping[str, Any]) -> Recipe:
        parameters = inspect.signature(function).parameters
        given = {name: value for name, value in chosen.items() if name in parameters}
        try:
            recipe = function(**given)
            if not isinstance(recipe, Recipe):
                raise TypeError(f"the recipe's function gave a {type(recipe).__name__}, expected a lam_jax.Recipe")
            for path, value in chosen.items():
                if path == SPACES:
                    recipe = in_spaces(recipe, value)
                elif path not in given:
                    recipe = replaced(recipe, path, value)
            return recipe if self.changed is None else self.changed(recipe)
        except (TypeError, ValueError) as error:
            raise BadSettingError(f"Cell {cell}: {error}") from error


@dataclasses.dataclass(frozen=True)
class Cell:
    """One recipe of a grid.

    Attributes:
        name: of its values, in the order of the axes; a file's name.
        axes: value of each axis as it is shown, and "recipe" where there are several.
        recipe: what is run.
    """

    name: str
    axes: Mapping[str, str | int | float | bool | None]
    recipe: Recipe


def _require_different(cells: Sequence[Cell], keys: Sequence[str], what: str) -> None:
    seen: dict[str, Cell] = {}
    for cell, key in zip(cells, keys):
        if key in seen:
            raise BadSettingError(
                f"The cells {dict(seen[key].axes)} and {dict(cell.axes)} have {what}, expected different ones. Leave "
                "an axis out that changes nothing."
            )
        seen[key] = cell


def shown_value(value: Any) -> Any:
    """A value of an axis in names and tables: plain values as they are, several joined by "+"."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, list | tuple):
        return "+".join(str(shown_value(item)) for item in value)
    return str(getattr(value, "name", None) or getattr(value, "__name__", None) or value)


def label_of(axis: str, value: Any) -> str:
    """A value in a cell's name: words by themselves, numbers and switches with their axis; of a path the last part."""
    shown = shown_value(value)
    text = Path(shown).stem if isinstance(shown, str) and "/" in shown else str(shown)
    text = text if isinstance(shown, str) else f"{axis.rpartition('.')[2]}{text}"
    return re.sub(r"[^A-Za-z0-9_.+-]+", "-", text)


def field_hint(path: str) -> Any:
    """The annotation of a field of a Recipe by its path.

    Raises:
        BadSettingError: there is no such field.
    """
    kind: Any = Recipe
    for place, name in enumerate(path.split(".")):
        fields = {f.name for f in dataclasses.fields(kind)} if dataclasses.is_dataclass(kind) else set()
        if name not in fields:
            where = ".".join(["Recipe", *path.split(".")[:place]])
            raise BadSettingError(
                f"Axis {path!r}: {where} has no field {name!r}, expected a parameter of the recipe's function or one "
                f"of the fields {sorted(fields)}."
            )
        kind = typing.get_type_hints(kind)[name]
    return kind


def replaced(value: Any, path: str, new: Any) -> Any:
    """A frozen dataclass with another value at a path of fields.

    Raises:
        BadSettingError: there is no such field.
    """
    if isinstance(value, Recipe):
        field_hint(path)  # names what is wrong in the whole path
    name, _, rest = path.partition(".")
    return dataclasses.replace(value, **{name: replaced(getattr(value, name), rest, new) if rest else new})
