"""Tables of docs/reproduction.md that are not scores of a grid's blocks: cost, and what the codes reach."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from lam_jax.grid.arms import PHASE, Arm, Results, arms_of
from lam_jax.grid.render import number

Record = Mapping[str, Any]
LAST = 5  # logged steps before a budget is spent, whose rewards are averaged
LEAST_SEEDS = 3
LEAST_GAIN, LEAST_LEAD = 0.25, 0.1  # nat, score: from where on codes count as used
POINTS = 21
COLDEST = 0.01  # below, all samples of a prompt are one
BUDGETS = {"samples": "samples", "flops": "FLOPs", "seconds": "seconds"}


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Markdown."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def spread(values: Sequence[float]) -> str:
    """Mean [least, largest]."""
    return f"{number(statistics.fmean(values))} [{number(min(values))}, {number(max(values))}]"


def _groups(records: Iterable[Record], *without: str) -> dict[tuple[tuple[str, str], ...], list[Record]]:
    """Records by their axes but the ones named."""
    found: dict[tuple[tuple[str, str], ...], list[Record]] = {}
    for record in records:
        key = tuple((name, str(value)) for name, value in record["axes"].items() if name not in without)
        found.setdefault(key, []).append(record)
    return found


def _named(key: tuple[tuple[str, str], ...]) -> str:
    return " ".join(value for _, value in key)


def reward_at(curve: Record, cost: str, budget: float) -> float:
    """Mean reward of the last steps of a training curve whose cost, summed up, is within the budget.

    Args:
        curve: of a cell's file.
        cost: "samples", "flops" or "seconds".
        budget: in that unit; the first step counts even if it is dearer.
    """
    steps = max(1, sum(spent <= budget * (1 + 1e-9) for spent in curve[cost]))
    return statistics.fmean(curve["reward_mean"][max(0, steps - LAST) : steps])


def cost_table(found: Results | None) -> str:
    """Rewards of the agents in training at equal samples, FLOPs and seconds: what the cheapest of them spent in all.

    Agents are compared where all other axes and the seed are equal and several agents are done.
    """
    rows = []
    for key, records in _groups(found.records if found else (), "agent", "seed").items():
        by_seed: dict[Any, dict[str, Record]] = {}
        for record in (record for record in records if record.get("curves")):
            by_seed.setdefault(record["seed"], {})[record["axes"]["agent"]] = record["curves"][0]
        agents = list(dict.fromkeys(agent for curves in by_seed.values() for agent in curves))
        whole = [curves for curves in by_seed.values() if set(curves) == set(agents)]
        if len(agents) < 2 or not whole:
            continue
        for agent in agents:
            cells = []
            for cost in BUDGETS:
                budgets = [min(curve[cost][-1] for curve in curves.values()) for curves in whole]
                cells.append(spread([reward_at(each[agent], cost, most) for each, most in zip(whole, budgets)]))
            spent = [statistics.fmean(each[agent][cost][-1] for each in whole) for cost in BUDGETS]
            units = f"{spent[0]:,.0f} / {spent[1] / 1e12:.2f} / {spent[2]:.0f}"
            rows.append([_named(key), agent, *cells, units, str(len(whole))])
    heads = [f"at equal {name}" for name in BUDGETS.values()]
    return table(("cell", "agent", *heads, "samples / TFLOP / s in all", "seeds"), rows) if rows else ""


def diversity_rows(found: Results | None) -> list[list[str]]:
    """Diversity of answers after RL of each agent minus the token agent's of the same seed and cell; heads first."""
    rows = [["task, split, temperature", "agent", "cell", "diversity", "mean", "minus token", "verdict"]]
    for block, arms in arms_of(found.records).items() if found else ():
        after = [arm for arm in arms if arm.labels[PHASE] == "rl"]
        for arm in after:
            others = [x for x in after if x.labels["agent"] == "token" and _but_agent(x) == _but_agent(arm)]
            if arm.labels["agent"] == "token" or not others or others[0].lexical != arm.lexical:
                continue
            theirs = others[0].diversity
            more = [arm.diversity[seed] - theirs[seed] for seed in sorted(set(arm.diversity) & set(theirs))]
            if more:
                place = f"{block.task}, {block.split}, {block.temperature:g}"
                cell = " ".join(value for name, value in _but_agent(arm).items() if name != PHASE)
                own = [arm.diversity[seed] for seed in sorted(arm.diversity)]
                kind = "of words" if arm.lexical else "of embeddings"
                rows.append([place, arm.labels["agent"], cell or "-", kind, spread(own), spread(more), verdict(more)])
    return rows


def equal_diversity_table(found: Results | None) -> str:
    """Scores after RL of each agent minus the token agent's at equal diversity, where their curves overlap.

    A curve goes through an agent's (diversity, score) of each temperature; between two of them it is straight. The
    difference is the mean of `POINTS` even steps over the diversities that both reach.
    """
    curves: dict[tuple[str, ...], dict[tuple[str, int], list[tuple[float, float]]]] = {}
    for block, arms in arms_of(found.records).items() if found else ():
        for arm in (arm for arm in arms if arm.labels[PHASE] == "rl" and block.temperature >= COLDEST):
            cell = " ".join(value for name, value in _but_agent(arm).items() if name != PHASE)
            own = curves.setdefault((block.task, block.split, cell or "-"), {})
            for seed in set(arm.scores) & set(arm.diversity):
                point = arm.diversity[seed], statistics.fmean(arm.scores[seed].values())
                own.setdefault((arm.labels["agent"], seed), []).append(point)
    rows = []
    for place, own in curves.items():
        for agent in dict.fromkeys(agent for agent, _ in own if agent != "token"):
            seeds = sorted(seed for name, seed in own if name == agent and ("token", seed) in own)
            more = [over_common(own[agent, seed], own["token", seed]) for seed in seeds]
            kept = [value for value in more if value is not None]
            if more:
                cells = (spread(kept), verdict(kept)) if kept else ("curves do not overlap", "undecided")
                rows.append([f"{place[0]}, {place[1]}", agent, place[2], *cells, f"{len(kept)} of {len(more)}"])
    heads = ("task, split", "agent", "cell", "score minus token's", "verdict", "seeds with overlap")
    return table(heads, rows) if rows else ""


def over_common(one: Sequence[tuple[float, float]], other: Sequence[tuple[float, float]]) -> float | None:
    """Mean of y minus the other's y over the x that both curves reach; None: there are none, or a curve is a point."""
    if min(len(one), len(other)) < 2:
        return None
    (xs, ys), (others, heights) = (np.array(sorted(curve)).T for curve in (one, other))
    low, high = max(xs[0], others[0]), min(xs[-1], others[-1])
    if low >= high:
        return None
    at = np.linspace(low, high, POINTS)
    return float(np.mean(np.interp(at, xs, ys) - np.interp(at, others, heights)))


def verdict(differences: Sequence[float]) -> str:
    """Of differences by seed: all of one sign, and three of them at least, or undecided."""
    if len(differences) >= LEAST_SEEDS and min(differences) > 0:
        return "supported"
    if len(differences) >= LEAST_SEEDS and max(differences) < 0:
        return "not supported"
    return "undecided"


def _but_agent(arm: Arm) -> dict[str, str]:
    return {name: value for name, value in arm.labels.items() if name not in ("agent", "space")}


def reach_table(found: Results | None) -> str:
    """What the codes reach after stage 5, and the policy's lead over uniformly random codes before and after RL."""
    rows = []
    for key, records in _groups(found.records if found else (), "seed").items():
        scores = [row for record in records for row in record.get("reach_scores", ())]
        before, after = ([row for row in scores if row["after"] == phase] for phase in ("sft", "rl"))
        if not before:
            continue
        reached = [row["gain_over_backbone"] for r in records for row in r.get("reach", ()) if row["after"] == "sft"]
        cells = [
            reached,
            *([row["lead"] for row in rows_ if "lead" in row] for rows_ in (before, after)),
            [_most(row["best_of"]) for row in before],
            [_most(row["random_best_of"]) for row in before if "random_best_of" in row],
            [row["oracle"] for row in before if "oracle" in row],
            [row["policy"] for row in after],
        ]
        rows.append([_named(key), *(spread(values) if values else "-" for values in cells), str(len(records))])
    heads = (
        *("cell", "gain of the inferred code, nat", "lead before RL", "lead after RL", "best of n before RL"),
        *("best of n, random codes", "oracle codes", "policy after RL", "seeds"),
    )
    return table(heads, rows) if rows else ""


def used_rows(found: Results | None) -> list[list[str]]:
    """Whether an agent's codes say something about the answers and its policy chooses among them; heads first.

    In every seed, of three at least, the gain of the inferred code and the policy's lead over random codes after RL.
    """
    rows = [["agent", "gain of the inferred code, nat, by seed", "lead after RL, by seed", "seeds", "verdict"]]
    for key, records in _groups(found.records if found else (), "seed").items():
        pairs = {}
        for record in records:
            gains = [row["gain_over_backbone"] for row in record.get("reach", ()) if row["after"] == "sft"]
            leads = [row["lead"] for row in record.get("reach_scores", ()) if row["after"] == "rl" and "lead" in row]
            if gains and leads:
                pairs[record["seed"]] = (min(gains), min(leads))
        if not pairs:
            continue
        seeds = sorted(pairs)
        each = [", ".join(number(pairs[seed][i]) for seed in seeds) for i in range(2)]
        enough = [gain >= LEAST_GAIN and lead >= LEAST_LEAD for gain, lead in pairs.values()]
        said = "undecided" if len(seeds) < LEAST_SEEDS else "supported" if all(enough) else "not supported"
        rows.append([_named(key), *each, str(len(seeds)), said])
    return rows


def _most(curve: Mapping[str, float]) -> float:
    """Of a best-of curve the score with most samples."""
    return curve[max(curve, key=int)]
