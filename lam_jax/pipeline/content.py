"""What a recipe names and does not hold, by hashes: the model's files, rows, rewards' code; what may change of them."""

import hashlib
from pathlib import Path
from typing import Any

from lam_jax.data.sources import RowSource
from lam_jax.formats.model_folder import model_files, read_model_config
from lam_jax.recipe import Recipe
from lam_jax.rewards.reward import Reward, WithContent

WHOLE, BLOCKS, BLOCK = 64 << 20, 64, 1 << 20  # bytes of a model's file, see `model_content`


def sources_of(recipe: Recipe) -> list[RowSource]:
    """Every source of rows of a recipe."""
    corpora = [recipe.paired, *([recipe.text_only] if recipe.text_only is not None else [])]
    return [*(corpus.rows for corpus in corpora), *(task.rows for task in recipe.tasks)]


def content_of(recipe: Recipe) -> dict[str, Any]:
    """Hashes of what a recipe names and does not hold: the model's files, rows of its sources, code of its rewards."""
    return {
        "model": model_content(recipe.model.path),
        "rows": [source.content() for source in sources_of(recipe)],
        "rewards": {name: r.content() for name, r in _rewards_of(recipe).items() if isinstance(r, WithContent)},
    }


def _rewards_of(recipe: Recipe) -> dict[str, Reward]:
    """By task, and where another scores the tests, that one too."""
    examiners = {f"{t.name}/evaluation": t.evaluation_reward for t in recipe.tasks if t.evaluation_reward is not None}
    return {task.name: task.reward for task in recipe.tasks} | examiners


def is_of_policy(place: str) -> bool:
    """Whether a place in a run's identity says what is done with bad rows; a run that one ended goes on without it."""
    return place in ("recipe.bad_rows", "recipe.max_bad_share")


def is_of_reward(place: str) -> bool:
    """Whether a place in a run's identity (`recipe.tasks[0].reward.sha256`, say) is a hash of a reward's code."""
    named = ".reward." in place or ".evaluation_reward." in place
    return place.startswith("content.rewards.") or (named and place.endswith("sha256"))


def model_content(folder: Path) -> dict[str, str]:
    """A hash of each file that a model is read from, by name.

    Of files above `WHOLE` bytes `BLOCKS` blocks, evenly spread, and the size are hashed: training moves every tensor,
    and reading all of a large model on every host would take as long as loading it.

    Raises:
        FileNotFoundError, CheckpointError: not the folder of a model.
    """
    read_model_config(folder)
    return {path.relative_to(folder).as_posix(): _file_content(path) for path in model_files(folder)}


def _file_content(path: Path) -> str:
    size, digest = path.stat().st_size, hashlib.sha256()
    digest.update(str(size).encode())
    with path.open("rb") as file:
        if size <= WHOLE:
            digest.update(file.read())
        else:
            for index in range(BLOCKS):
                file.seek(index * (size - BLOCK) // (BLOCKS - 1))
                digest.update(file.read(BLOCK))
    return digest.hexdigest()
