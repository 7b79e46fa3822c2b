"""A run that begins where another one has learned its actions: stages 1 to 4 are taken over, not trained again."""

import json
import shutil
from pathlib import Path
from typing import Any

from lam_jax.errors import BadSettingError
from lam_jax.pipeline.content import content_of
from lam_jax.pipeline.phases import STAGE_PHASES
from lam_jax.pipeline.shares import learned_part
from lam_jax.recipe import Recipe
from lam_jax.runs.phase_store import PhaseStore
from lam_jax.values import ValueFormError, differences, encode

SHOWN = 4  # differences that an error names


class StagesOf(PhaseStore):
    """Stages 1 to 4 of another run; their files are linked into the folder of the run that begins with them.

    Args:
        start: the other run.
        recipe, content: of the run that begins, and the hashes of its rows and model (`content_of`).

    Raises:
        BadSettingError: `start` is no run, has not completed stage 4, or learned its actions in another way.
    """

    def __init__(self, start: str | Path, recipe: Recipe, content: dict[str, Any]):
        super().__init__(Path(start) / "phases", lambda phase: phase if phase in STAGE_PHASES else None)
        self._whole = True
        _require_same(Path(start), recipe, content)

    def take(self, path: Path) -> None:
        """Links all four, before the first of them is asked for: afterwards the run needs `start` no more."""
        for name in STAGE_PHASES if self._whole and path.name in STAGE_PHASES else ():
            super().take(path.with_name(name))

    def keep(self, path: Path) -> None:
        """The other run stays as it is."""

    def noted(self, key: str) -> str:
        """Where it comes from."""
        return str(self.folder / key)

    def discard(self, path: Path) -> None:
        """What was taken of it is damaged and is trained again; the stages that came after it there no longer fit."""
        if self.taken(path) is None:
            return
        self._whole = False
        self.forget(path)
        names = list(STAGE_PHASES)
        for later in (path.with_name(name) for name in names[names.index(path.name) + 1 :]):
            if self.taken(later) is not None:
                self.forget(later)
                shutil.rmtree(later, ignore_errors=True)


def begin_from(start: str | Path | None, recipe: Recipe, out: str | Path) -> StagesOf | None:
    """What the run in `out` takes its first stages from; None: nothing was asked for, or it has them already.

    Raises:
        BadSettingError: see `StagesOf`.
    """
    if start is None or all((Path(out) / "phases" / name).is_dir() for name in STAGE_PHASES):
        return None
    return StagesOf(start, recipe, content_of(recipe))


def _require_same(start: Path, recipe: Recipe, content: dict[str, Any]) -> None:
    file = start / "config.json"
    try:
        found = json.loads(file.read_text(encoding="utf-8"))["config"]
        # Decoded and encoded: an older version's file has no fields that came later.
        known = Recipe.from_json(json.dumps(found["recipe"]), stand_ins=True)
        other = _part(known, found["content"])
    except (OSError, ValueError, KeyError, TypeError, ValueFormError) as error:
        raise BadSettingError(f"start: {start} is no run of a recipe ({error!r}); expected a run's folder.") from error
    for name in STAGE_PHASES:
        if not (start / "phases" / name).is_dir():
            raise BadSettingError(f"start: {start} has not completed {name}; run it further, or start from another.")
    if lines := differences(other, _part(recipe, content)):
        more = f"; and {len(lines) - SHOWN} more" if len(lines) > SHOWN else ""
        raise BadSettingError(
            f"start: {start} learned its actions with other settings, rows or model: {'; '.join(lines[:SHOWN])}{more}. "
            "Take the recipe of that run and change its tasks, spaces and stages 5 and 6 alone, or leave start out."
        )


def _part(recipe: Recipe, content: dict[str, Any]) -> dict[str, Any]:
    """What stages 1 to 4 depend on, as JSON values."""
    part = learned_part(encode(recipe, "recipe"), content)
    method = {key: value for key, value in part["method"].items() if key != "sft"}  # which they do not read
    return json.loads(json.dumps(part | {"method": method}))
