"""Rows that their source cannot use: with the wrong pictures, or without an answer where it is trained on."""

from collections.abc import Sequence

from lam_jax.corpora.built import BuiltExamples
from lam_jax.data.bad_rows import Tally
from lam_jax.data.schemas import DataError, Example, Where, require_reference
from lam_jax.recipe import PAIRED, TEXT_ONLY
from lam_jax.tasks.episodes import pictures_of
from lam_jax.tasks.task import Task


def usable(
    examples: Sequence[Example], source: str, whole: bool, tally: Tally | None, tasks: Sequence[Task] = ()
) -> Sequence[Example]:
    """The examples, if each has the pictures that its source needs, and its answer where rows are used whole.

    Args:
        examples: of a split.
        source: "paired", "text_only", or a task's name.
        whole: rows go into a loss with their answers.
        tally: gets those that cannot be used, which are then left out, duplicates among them.
        tasks: the recipe's; rows of those that are played may have a picture for each turn, all others one.

    Raises:
        DataError: without a tally, one cannot be used.
    """
    if isinstance(examples, BuiltExamples):
        return _built(examples, source)
    pictures = pictures_of(tasks, source)
    if tally is None:
        for example in examples:
            _require_usable(example, source, whole, pictures)
        return examples
    double = {id(example): text for example, text in tally.duplicates}
    kept = []
    for example in examples:
        if text := double.get(id(example)):
            tally.drop(example.where, "duplicate id", text)
            continue
        try:
            _require_usable(example, source, whole, pictures)
        except DataError as error:
            tally.drop(example.where, f"{error.key}: {error.found}", str(error))
            continue
        kept.append(example)
    return kept


def _built(examples: BuiltExamples, source: str) -> BuiltExamples:
    """Built rows, which were looked at one by one when they were built, and are not all read for it again."""
    fewest, most = examples.pictures
    least, expected = (1, "one in each paired row") if source == PAIRED else (0, "at most one in a row")
    if source == TEXT_ONLY:
        expected = "none in text-only rows"
    if fewest < least or most > (0 if source == TEXT_ONLY else 1):
        found, fix = f"rows of {fewest} to {most} pictures", "Build the folder again of other rows."
        raise DataError(Where(f"{examples.folder}, split {examples.split!r}"), None, found, expected, fix)
    return examples


def _require_usable(example: Example, source: str, whole: bool, pictures: int) -> None:
    if whole:
        require_reference(example)
    if source == PAIRED and not example.images:
        fix = "Add it, or move the row to the text-only rows."
        raise DataError(example.where, "images", "no picture", "a picture in a paired row", fix)
    if source == TEXT_ONLY and example.images:
        fix = "Drop it, or move the row to the paired rows."
        raise DataError(example.where, "images", "a picture", "none in a text-only row", fix)
    if len(example.images) > pictures:
        most, fix = ("one", "Keep one of them.") if pictures == 1 else (f"at most {pictures}", "Drop some of them.")
        raise DataError(example.where, "images", f"{len(example.images)} pictures", most, fix)
