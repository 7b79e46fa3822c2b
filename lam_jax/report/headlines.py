"""The run in plain sentences, each computed from its numbers."""

import math

from lam_jax.report import reach_tables
from lam_jax.report.comparison import Comparison, comparisons, gain_verdict, speed_tables, standard_errors
from lam_jax.report.names import SPACES, Titles, lower_first, number
from lam_jax.report.schema import Row


def headlines(results: Row) -> list[str]:
    """The run in plain sentences, every one computed from the numbers; empty if nothing was measured."""
    titles = Titles.of(results)
    sentences = _score_sentences(comparisons(results), titles)
    sentences += [_gain_sentence(gain, titles) for gain in results.get("gain") or []]
    for table in speed_tables(results):
        ratios = next((row[-1] for row in table.rows if row[:2] == ("Whole step", "s")), {})
        for space, ratio in ratios.items():
            if ratio is not None and math.isfinite(ratio):
                task = titles.task(table.task)
                sentences.append(f"{task}: a {space} RL step takes {ratio:.2f} times a token RL step.")
    sentences += reach_tables.sentences(results)
    fluency = results.get("fluency")
    if fluency:
        checked = f" of {fluency['checked']:,.0f}" if fluency.get("checked") is not None else ""
        share = number(100 * fluency["share"], 1)
        sentences.append(f"{share} %{checked} answers from sampled latent actions pass the fluency checks.")
    return sentences


def _score_sentences(compared: list[Comparison], titles: Titles) -> list[str]:
    """Per task, temperature and phase compared: who is ahead on which split, with the numbers."""
    sentences = []
    groups: dict[tuple[str, float, str | None], list[Comparison]] = {}
    for row in compared:
        groups.setdefault((row.task, row.temperature, row.phase), []).append(row)
    for (task, temperature, phase), rows in groups.items():
        where = f"{titles.task(task)} at temperature {temperature:g}"
        if phase is None:
            spaces = sorted({space for row in rows for space in row.scores})
            if len(spaces) == 1:
                sentences.append(f"{where}, {spaces[0]} space: {_course(rows, spaces[0], titles)}.")
            else:
                both = "both" if len(spaces) == 2 else "all"
                sentences.append(f"{where}: nothing to compare, no phase was scored in {both} spaces.")
            continue
        parts = []
        for verdict in (*SPACES, "undecided"):
            found = [
                f"{titles.short_split(task, row.split)} ({_means(row, phase)})"
                for row in rows
                if row.verdict == verdict
            ]
            if found:
                claim = "undecided" if verdict == "undecided" else f"the {verdict} space is ahead"
                parts.append(f"{claim} on {' and '.join(found)}")
        sentences.append(f"{where}, after {phase.upper()}: {'; '.join(parts)}.")
    return sentences


def _means(row: Comparison, phase: str) -> str:
    return ", ".join(f"{number(row.scores[space][phase]['mean'])} {space}" for space in row.spaces)


def _course(rows: list[Comparison], space: str, titles: Titles) -> str:
    """The scores of a space that was run alone, of each split after SFT and after RL."""
    parts = []
    for row in rows:
        scored = [(phase, row.score(space, phase)) for phase in ("sft", "rl")]
        means = [f"{number(score['mean'])} after {phase.upper()}" for phase, score in scored if score]
        parts.append(f"{' and '.join(means)} on {titles.short_split(row.task, row.split)}")
    return "; ".join(parts)


def _gain_sentence(gain: Row, titles: Titles) -> str:
    start = f"RL, {gain['space']} space, {lower_first(titles.task(gain['task']))}: mean score on fixed training prompts"
    ends = f"from {number(gain['before'])} to {number(gain['after'])}"
    verdict = gain_verdict(gain)
    if verdict == "undecided":
        return f"{start} went {ends} ({_errors(gain)} paired standard errors): undecided."
    return f"{start} {verdict} {ends} ({_errors(gain)} paired standard errors)."


def _errors(gain: Row) -> str:
    errors = standard_errors(gain)
    return number(errors, 1) if math.isfinite(errors) else "infinitely many"
