"""Verdicts in a JSON Lines file, a line an answer, written as they come: what is there is not asked for again."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from lam_jax.data.schemas import Example
from lam_jax.errors import LamJaxError
from lam_jax.evaluation.scoring import Scored
from lam_jax.rewards.reward import Reward, check_verdicts
from lam_jax.rewards.verdict import Verdict
from lam_jax.runs.jsonl import BrokenLinesError, JsonLines, Record, read_lines

AT_ONCE = 32  # rows that a reward gets at a time: enough that a judge's calls overlap
ALL_FAIL = 64  # failed calls in a row after which going on would only collect more
_FIELDS = {field.name for field in dataclasses.fields(Verdict)}


class RewardRefusesError(LamJaxError):
    """Every call of a reward fails."""


def record_of(row: str, sample: int, verdict: Verdict) -> Record:
    """A verdict as a line: of a failed call the reason, and its kind where the reward gives one."""
    found: Record = {"id": row, "sample": sample}
    if not verdict.ok:
        kind = getattr(verdict, "kind", None)
        return found | {"error": verdict.error} | ({"kind": kind} if kind else {})
    found["scores"] = {name: list(pair) for name, pair in verdict.scores.items()}
    return found | ({"parts": dict(verdict.parts)} if verdict.parts else {})


def scored_of(record: Record) -> Scored:
    """The verdict of a line.

    Raises:
        KeyError, TypeError, ValueError: not a line of such a file.
    """
    row, sample = record["id"], record["sample"]
    if not isinstance(row, str) or not isinstance(sample, int):
        raise TypeError(f"id {row!r} and sample {sample!r}")
    if "error" in record:
        kind = {"kind": record["kind"]} if "kind" in record and "kind" in _FIELDS else {}
        return Scored(row, sample, Verdict(error=str(record["error"]), **kind))
    scores = {name: (float(answer), float(reference)) for name, (answer, reference) in record["scores"].items()}
    return Scored(row, sample, Verdict(scores, parts=record.get("parts") or {}))


def read_verdicts(path: Path) -> list[Scored]:
    """The verdicts of a file, in its order; none where there is no file.

    Raises:
        BrokenLinesError: a line that is no verdict, by number.
    """
    found = []
    for number, record in enumerate(read_lines(path), start=1):
        try:
            found.append(scored_of(record))
        except (KeyError, TypeError, ValueError) as error:
            raise BrokenLinesError(
                f"{path}: record {number}: found no verdict ({error!r}). Correct the line, or delete it: it is asked "
                "for again."
            ) from error
    return found


def failed_kinds(path: Path) -> dict[tuple[str, int], str]:
    """The kinds of the failed calls in a file, by (row, sample), where the reward gave one."""
    return {
        (line["id"], line["sample"]): line["kind"] for line in read_lines(path) if "error" in line and "kind" in line
    }


def score_rows(
    path: Path,
    examples: Sequence[Example],
    answers: Sequence[Sequence[str]],
    reward: Reward,
    retry_failed: bool = False,
    done: Callable[[int], None] = lambda rows: None,
) -> list[Scored]:
    """The verdicts on all answers, in order; asks for those that `path` does not hold yet, and writes them there.

    Args:
        path: of the file.
        examples: [N].
        answers: [N][G]; an answer is keyed by its row's id and its number, which the reward gets too.
        reward: what scores them.
        retry_failed: failed calls are asked for again; else they stay failed.
        done: told the number of rows that are scored.

    Raises:
        RewardRefusesError: `ALL_FAIL` calls in a row failed.
        BrokenLinesError: a line of the file is no verdict.
    """
    lines = JsonLines(path, "verdicts")
    if retry_failed:
        lines.keep(lambda record: "error" not in record)
    known = {(item.row, item.sample): item for item in read_verdicts(path)}
    samples = range(len(answers[0]) if answers else 0)
    missing = [tuple(g for g in samples if (example.id, g) not in known) for example in examples]
    scored, failed = sum(not numbers for numbers in missing), 0
    done(scored)
    try:
        for rows, numbers in _chunks(missing):
            asked = [examples[n] for n in rows], [[answers[n][g] for g in numbers] for n in rows], numbers
            found = check_verdicts(reward(*asked), type(reward).__name__, len(rows), len(numbers))
            fresh = [Scored(examples[n].id, g, v) for n, row in zip(rows, found) for g, v in zip(numbers, row)]
            lines.append(record_of(item.row, item.sample, item.verdict) for item in fresh)
            known |= {(item.row, item.sample): item for item in fresh}
            failed = 0 if any(item.verdict.ok for item in fresh) else failed + len(fresh)
            if failed >= ALL_FAIL:
                raise RewardRefusesError(
                    f"{type(reward).__name__}: the last {failed} calls all failed, so the evaluation stops. The last "
                    f"one said: {fresh[-1].verdict.error}. Correct what it names, then run the same command with "
                    "--retry-failed."
                )
            scored += len(rows)
            done(scored)
    finally:
        lines.close()
    return [known[example.id, g] for example in examples for g in samples]


def _chunks(missing: Sequence[tuple[int, ...]]) -> Iterator[tuple[list[int], tuple[int, ...]]]:
    """Up to `AT_ONCE` rows that lack the same samples, and the numbers of these."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for row, numbers in enumerate(missing):
        if numbers:
            groups.setdefault(numbers, []).append(row)
    for numbers, rows in groups.items():
        for start in range(0, len(rows), AT_ONCE):
            yield rows[start : start + AT_ONCE], numbers
