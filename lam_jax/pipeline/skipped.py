"""Bad rows of a run that was told to skip them: listed in its folder once each, and counted step by step."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from lam_jax.data.bad_rows import REASONS, Skipped, Tally
from lam_jax.parallel import TRAIN
from lam_jax.parallel.rows import from_own_rows
from lam_jax.runs.jsonl import JsonLines, read_lines

logger = logging.getLogger("lam_jax")
FILE = "skipped_rows.jsonl"
TOTAL = "skipped_rows"  # the metric; with "/REASON" behind it, of one reason
TOLD = 20  # rows that are told of on the log; the others are in the file only


class SkipLog:
    """Lists skipped rows in a file and counts those of a step.

    With several processes each lists the rows that it met: the first in `FILE`, number n in `skipped_rows.n.jsonl`.

    Args:
        folder: of the run; None: nothing is written.

    Attributes:
        recent: rows that were skipped, until somebody who counts them empties it.
    """

    def __init__(self, folder: Path | None = None):
        self.recent: list[Skipped] = []
        self._counts: list[Any] = []
        self._known: set[tuple[Any, ...]] = set()
        self._file: JsonLines | None = None
        if folder is not None:
            number = jax.process_index()
            self._file = JsonLines(folder / (FILE if not number else f"skipped_rows.{number}.jsonl"), "skipped rows")
            self._known = {_key(record) for record in read_lines(self._file.path)}

    def note(self, source: str, skipped: Sequence[Skipped]) -> None:
        """Rows of a batch that were skipped."""
        self.recent += skipped
        self._list([_record(source, row) for row in skipped])

    def dropped(self, source: str, tally: Tally) -> None:
        """Rows that a reader left out, or that could not be told apart from others."""
        records = [
            {
                "source": source,
                **_place(row.where),
                "id": None,
                "picture": row.picture,
                "reason": row.reason,
                "message": row.text,
                "replaced_by": None,
            }
            for row in tally.dropped.values()
        ]
        self._list(records)

    def count(self, skipped: Sequence[Skipped], own: tuple[int, ...], rows: int, mesh: Mesh) -> None:
        """Counts the rows that were replaced in this process's rows `own` of a global batch of `rows`."""
        counts = np.zeros((len(own), len(REASONS)), np.int32)
        for row in skipped:
            counts[row.place, REASONS.index(row.reason)] += 1
        self._counts.append(from_own_rows(counts, own, rows, mesh, TRAIN))

    def of_step(self) -> dict[str, jax.Array]:
        """Rows that were replaced in the batches since the last call, over all processes, in all and by reason."""
        counts, self._counts, self.recent = tuple(self._counts), [], []
        return _totals(counts)

    def _list(self, records: Sequence[dict[str, Any]]) -> None:
        new = []
        for record in records:
            if (key := _key(record)) not in self._known:
                self._known.add(key)
                new.append(record)
                if len(self._known) <= TOLD:
                    logger.warning("Skipped: %s", record["message"])
                elif len(self._known) == TOLD + 1:
                    logger.warning(
                        "Further skipped rows are listed in %s only.", self._file.path if self._file else FILE
                    )
        if self._file is not None:
            self._file.append(new)
            self._file.close()


@jax.jit
def _totals(counts: tuple[jax.Array, ...]) -> dict[str, jax.Array]:
    by_reason = sum((jnp.sum(each, axis=0) for each in counts), jnp.zeros(len(REASONS), jnp.int32))
    return {TOTAL: jnp.sum(by_reason)} | {f"{TOTAL}/{name}": by_reason[i] for i, name in enumerate(REASONS)}


def totals_of(skipped: Sequence[Skipped]) -> dict[str, float]:
    """The same of rows that every process made itself."""
    by_reason = {f"{TOTAL}/{name}": float(sum(row.reason == name for row in skipped)) for name in REASONS}
    return {TOTAL: float(len(skipped)), **by_reason}


def _record(source: str, row: Skipped) -> dict[str, Any]:
    return {
        "source": source,
        **_place(row.where),
        "id": row.id,
        "picture": row.picture,
        "reason": row.reason,
        "message": row.text,
        "replaced_by": str(row.replaced_by) if row.replaced_by else None,
    }


def _place(where: Any) -> dict[str, Any]:
    return {"file": where.file, "row": where.row}


def _key(record: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(record.get(name) for name in ("source", "file", "row", "id"))
