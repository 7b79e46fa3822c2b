"""Which agents of an evaluation are compared with which, and the comparisons."""

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lam_jax.agents.evaluation_folder import RESULT, EvaluationFolder, SetFolder
from lam_jax.agents.settings import AgentError
from lam_jax.evaluation.figures import comparison_figures
from lam_jax.evaluation.paired import compare
from lam_jax.evaluation.scoring import Scored
from lam_jax.evaluation.verdict_file import read_verdicts
from lam_jax.report.evaluations import read_evaluation
from lam_jax.train.spaces import SPACES
from lam_jax.values import differences

Record = dict[str, Any]
Measured = tuple[Record, SetFolder]
TEST = "two-sided sign test over prompts, ties left out"


def comparisons(
    folder: EvaluationFolder,
    measured: Sequence[Measured],
    split: Sequence[int],
    against: Path | None,
    confidence: float,
    seed: int,
    say: Callable[[str], None] = lambda text: None,
) -> list[Record]:
    """Every comparison of an evaluation: latent with token of one task, one folder's agents with the other's.

    Args:
        folder: of the evaluation.
        measured: its entries.
        split: agents of each folder that was named.
        against: folder of another evaluation.
        confidence: of the intervals.
        seed: of the bootstrap.
        say: is told of agents that cannot be compared, since of no prompt the calls of both succeeded.

    Raises:
        AgentError: two folders or evaluations whose agents do not correspond, or that another reward scored.
        RunFilesError: `against` is no evaluation.
    """
    out = []
    for first, second in pairs_of(folder, measured, split, against):
        if first[0]["score"] is None or second[0]["score"] is None:
            continue
        is_other = against is not None and second[1].root == against
        if (found := _compared(first, second, is_other, confidence, seed)) is not None:
            out.append(found)
        else:
            names = f"{first[0]['agent']} and {second[0]['agent']}, set {first[0]['set']}"
            say(f"{names}: not compared, no answer of the same number is scored in both; calls of the reward failed.")
    return out


def pairs_of(
    folder: EvaluationFolder, measured: Sequence[Measured], split: Sequence[int], against: Path | None
) -> list[tuple[Measured, Measured]]:
    """What is compared with what; of an entry agent, task, space, set and reward_identity suffice.

    Raises:
        AgentError: two folders or evaluations whose agents do not correspond, or that another reward scores.
        RunFilesError: `against` is no evaluation.
    """
    names = list(dict.fromkeys(entry["agent"] for entry, _ in measured))
    groups = [[m for m in measured if m[0]["agent"] in names[sum(split[:i]) : sum(split[: i + 1])]] for i in (0, 1)]
    pairs = [pair for group in groups for pair in _spaces(group)]
    if len(split) > 1:
        pairs += _matched(groups[0], groups[1], "the two folders")
    if against is not None:
        other = [
            (entry, SetFolder(against, against / entry["folder"]))
            for entry in read_evaluation(against / RESULT)["scores"]
        ]
        pairs += _matched(list(measured), other, f"{folder.path} and {against}")
    for (entry, _), (other, _) in pairs:
        one, two = entry.get("reward_identity"), other.get("reward_identity")
        if None not in (one, two) and (lines := differences(one, two, "reward")):
            raise AgentError(
                f"{entry['agent']} and {other['agent']} are scored by different rewards, so their scores do not "
                f"compare: {'; '.join(lines[:5])}. Score both by one, as --reward or --judge."
            )
    return pairs


def _spaces(measured: Sequence[Measured]) -> list[tuple[Measured, Measured]]:
    """Each two spaces of a task and set: latent and token, and hybrid with either."""
    found: dict[tuple[Any, Any], dict[str, Measured]] = {}
    for one in measured:
        found.setdefault((one[0]["task"], one[0]["set"]), {})[one[0]["space"]] = one
    spaces = [[by[space] for space in SPACES if space in by] for by in found.values()]
    return [pair for there in spaces for pair in itertools.combinations(there, 2)]


def _matched(first: Sequence[Measured], second: Sequence[Measured], what: str) -> list[tuple[Measured, Measured]]:
    """By set; and by task and action space where one of the two sides has several agents.

    Raises:
        AgentError: nothing corresponds.
    """
    several = any(len({entry["agent"] for entry, _ in side}) > 1 for side in (first, second))

    def place(entry: Record) -> tuple[Any, ...]:
        return (entry["set"], entry["task"], entry["space"]) if several else (entry["set"],)

    others = {place(entry): (entry, target) for entry, target in second}
    pairs = [((entry, target), others[place(entry)]) for entry, target in first if place(entry) in others]
    if not pairs:
        known = [sorted({str(place(entry)) for entry, _ in side}) for side in (first, second)]
        raise AgentError(f"{what} have nothing to compare: found {known[0]} and {known[1]}. Name --task and --space.")
    return pairs


def _compared(first: Measured, second: Measured, is_other: bool, confidence: float, seed: int) -> Record | None:
    """The comparison; None: both answered the same rows, and failed calls left no pair of scores.

    Raises:
        AgentError: no row in common.
    """
    (entry, target), (other, other_target) = first, second
    hashes, other_hashes = target.row_hashes("answers"), other_target.row_hashes("answers")
    changed = {row for row, value in hashes.items() if other_hashes.get(row, value) != value}

    def verdicts(of: SetFolder) -> list[Scored]:
        return [item for item in read_verdicts(of.verdicts) if item.row not in changed]

    try:
        found = compare(verdicts(target), verdicts(other_target), confidence, seed)
    except ValueError as error:
        if (hashes.keys() & other_hashes.keys()) - changed:
            return None
        raise AgentError(f"{entry['agent']} and {other['agent']}, set {entry['set']}: {error}.") from error
    figures = comparison_figures(found)
    figures["unpaired"] += len(changed)
    return {
        "first": entry["agent"],
        "second": other["agent"],
        "second_evaluation": other_target.root.name if is_other else None,
        "set": entry["set"],
        "title": entry["title"],
        "test": TEST,
        "same_id_other_row": len(changed),
        **figures,
    }
