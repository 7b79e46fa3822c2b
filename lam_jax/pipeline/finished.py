"""Whether a run has nothing left to do: then its results are read, and neither model nor rows are opened."""

import json
from typing import Any

from lam_jax.errors import CheckpointMismatchError, DamagedCheckpointError
from lam_jax.pipeline.phases import phases_of
from lam_jax.recipe import Recipe
from lam_jax.report.run_files import read_results
from lam_jax.report.schema import RunFilesError
from lam_jax.runs.record import read_record
from lam_jax.runs.run import Run
from lam_jax.values import encode

RESULTS = "results.json"


def finished_results(run: Run, recipe: Recipe) -> dict[str, Any] | None:
    """The results of an open run whose phases are all complete and are those that the results were collected from.

    None where something is missing, damaged or was run again since; then the run has to be gone through. That the
    folder belongs to the recipe, its rows and its model was checked when it was opened.
    """
    try:
        results = read_results(run.folder / RESULTS)
        saved = {name: read_record(run.phases / name)["metadata"] for name in phases_of(recipe)}
    except (RunFilesError, DamagedCheckpointError, CheckpointMismatchError):
        return None
    times = [(row["name"], row["seconds"], row.get("compile_seconds")) for row in results.get("phases") or []]
    if times != [(name, phase["seconds"], phase["compile_seconds"]) for name, phase in saved.items()]:
        return None
    return results if results.get("config") == json.loads(json.dumps(encode(recipe, "recipe"))) else None
