"""Whether a run has nothing left to do: then its results are read, and neither model nor rows are opened."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lam_jax.pipeline.plan import phases_of
from lam_jax.recipe import Recipe
from lam_jax.report.run_files import read_results
from lam_jax.report.schema import RunFilesError
from lam_jax.runs.record import record_file
from lam_jax.runs.run import Run
from lam_jax.values import encode

RESULTS = "results.json"


def records_hash(phases: Path, names: Iterable[str]) -> str:
    """SHA-256 of the records of complete phases: another one where a phase was run again, or is damaged.

    Raises:
        FileNotFoundError: a phase is not complete.
    """
    digest = hashlib.sha256()
    for name in names:
        digest.update(hashlib.sha256(record_file(phases / name).read_bytes()).digest())
    return digest.hexdigest()


def finished_results(run: Run, recipe: Recipe) -> dict[str, Any] | None:
    """The results of an open run whose phases are all complete and are those that the results were collected from.

    None where something is missing, damaged or was run again since; then the run has to be gone through. That the
    folder belongs to the recipe, its rows and its model was checked when it was opened.
    """
    try:
        results = read_results(run.folder / RESULTS)
        records = records_hash(run.phases, phases_of(recipe))
    except (RunFilesError, FileNotFoundError):
        return None
    if results.get("records") != records or results.get("config") != json.loads(json.dumps(encode(recipe, "recipe"))):
        return None
    return results
