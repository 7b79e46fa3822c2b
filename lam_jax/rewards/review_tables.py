"""Tables from stored reviews in the layout of MMRole's published results: a count, and a mean ratio per dimension."""

import csv
import dataclasses
import functools
import io
import math
import operator
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from lam_jax.data.schemas import DataError, Where
from lam_jax.rewards.reviews import read_reviews

COUNT = "count"
TOLERANCE = 1e-9


@dataclasses.dataclass(frozen=True)
class ReviewTable:
    """Means over the reviews of one file.

    Attributes:
        file: it.
        count: rows with a review.
        means: dimension -> mean of score of the answer / score of the reference.
        skipped: rows without a review.
        unreadable: id -> why, of rows whose review holds no scores.
    """

    file: str
    count: int
    means: Mapping[str, float]
    skipped: int
    unreadable: Mapping[str, str]


def review_table(path: Path) -> ReviewTable:
    """The table of a file of reviews, from their texts; rows without a review are skipped, as by its authors.

    Raises:
        DataError: no such file, another layout, or no row that counts.
    """
    try:
        rows = read_reviews(path)
    except FileNotFoundError as error:
        raise DataError(Where(str(path)), None, "no such file", "a file of reviews", "Correct the path.") from error
    except ValueError as error:
        fix = 'Name a JSON list of rows {"id", "rm_review": {dimension: {"review": text}}}.'
        raise DataError(Where(str(path)), None, str(error), "reviews", fix) from error
    except OSError as error:
        raise DataError(
            Where(str(path)), None, str(error.strerror), "a file of reviews", "Correct the path."
        ) from error
    scored = [verdict for _, verdict in rows if verdict.ok]
    if not scored:
        why = next((str(v.error) for _, v in rows if v.kind != "no_review"), "no row has a review")
        raise DataError(Where(str(path)), None, why, "one reviewed row or more", "Name a file of reviews.")
    names = list(scored[0].scores)
    for identifier, verdict in rows:
        if verdict.ok and set(verdict.scores) != set(names):
            found = f"dimensions {list(verdict.scores)} in row {identifier!r}"
            raise DataError(Where(str(path)), "rm_review", found, f"{names} as in the rows before", "Split the file.")
    means = {name: _in_order(verdict.ratios[name] for verdict in scored) / len(scored) for name in names}
    return ReviewTable(
        str(path),
        len(scored),
        means,
        sum(verdict.kind == "no_review" for _, verdict in rows),
        {identifier: str(v.error) for identifier, v in rows if not v.ok and v.kind != "no_review"},
    )


def _in_order(values: Iterable[float]) -> float:
    """The plain sum in the order of the rows, which gives the published digits, the last one included.

    From Python 3.12 on `sum` compensates for rounding, and its last digit differs.
    """
    return functools.reduce(operator.add, values, 0.0)


def as_csv(tables: Sequence[ReviewTable]) -> str:
    """One line a table under the published files' columns, with their line ends.

    Raises:
        DataError: tables with different dimensions.
    """
    names = list(tables[0].means)
    for table in tables:
        if list(table.means) != names:
            found = f"dimensions {list(table.means)}"
            fix = "Give files of one kind at a time."
            raise DataError(Where(table.file), None, found, f"{names} as in {tables[0].file}", fix)
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow([COUNT, *names])
    writer.writerows([table.count, *table.means.values()] for table in tables)
    return out.getvalue()


def read_published(path: Path) -> dict[str, float]:
    """Column -> number of a published file.

    Raises:
        DataError: no such file, or not one line of numbers under a header with `count`.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            lines = [line for line in csv.reader(file) if line]
        header, values = lines
        found = {name.strip(): float(value) for name, value in zip(header, values, strict=True)}
    except OSError as error:
        raise DataError(
            Where(str(path)), None, str(error.strerror), "a file of results", "Correct the path."
        ) from error
    except ValueError as error:
        expected, fix = "a header and one line of numbers", "Name a CSV of published results."
        raise DataError(Where(str(path)), None, f"another layout ({error})", expected, fix) from error
    if COUNT not in found:
        raise DataError(Where(str(path)), COUNT, f"columns {header}", f"a column {COUNT!r}", "Name a CSV of results.")
    return found


def compare(table: ReviewTable, published: Mapping[str, float]) -> list[str]:
    """The columns in which a table differs from a published one by more than 1e-9, as sentences."""
    own = {COUNT: float(table.count), **table.means}
    lines = [f"{name}: only in the published file" for name in published if name not in own]
    for name, value in own.items():
        if name not in published:
            lines.append(f"{name}: not in the published file")
        elif not math.isclose(value, published[name], rel_tol=0.0, abs_tol=TOLERANCE):
            lines.append(f"{name}: {value!r} from the texts, {published[name]!r} published")
    return lines
