"""How far the codes can move the answers, as the report shows it."""

from lam_jax.report.names import Titles, number
from lam_jax.report.schema import Row

ALONG = {"oracle": "the inverse model, along the reference", "backbone": "none, along the reference"}
CORPORA = {"paired": "Image-text rows", "text_only": "Text-only rows"}


def emitted(results: Row) -> list[Row]:
    """Rows of the probe along references, with the names of their rows and of the phase before."""
    titles, rows = Titles.of(results), results.get("reach") or []
    return [
        row
        | {
            "title": CORPORA.get(row["rows"]) or titles.task(row["rows"]),
            "phase": "stage 4" if row["after"] == "stage4" else "SFT",
        }
        for index, row in enumerate(rows)
        if row not in rows[:index]  # spaces that share stage 5 have one each
    ]


def scores(results: Row) -> list[Row]:
    """Rows of the scores after SFT and after RL: answers as in RL, then those under random codes."""
    titles, found = Titles.of(results), []
    for row in results.get("reach_scores") or []:
        after = "RL" if row.get("after") == "rl" else "SFT"
        start = {"title": titles.task(row["task"]), "space": row["space"], "after": after}
        found.append(start | {"drawn": "the policy", "score": row.get("policy"), "best": row.get("best_of") or {}})
        if row.get("random") is not None:
            best = row.get("random_best_of") or {}
            found.append(start | {"drawn": "random codes", "score": row["random"], "best": best})
        for key, drawn in ALONG.items():
            if row.get(key) is not None:
                found.append(start | {"drawn": drawn, "score": row[key], "best": {}})
    return found


def sizes(results: Row) -> list[str]:
    """The numbers of answers of all curves of the best of n, as keys, the smallest first."""
    keys = {key for row in results.get("reach_scores") or [] for key in row.get("best_of") or {}}
    return sorted(keys, key=int)


def sentences(results: Row) -> list[str]:
    """What the probe says of each task's codes before RL, in plain sentences."""
    titles, found = Titles.of(results), []
    before = [row for row in results.get("reach_scores") or [] if row.get("after", "sft") == "sft"]
    for row in results.get("reach") or []:
        if row["after"] != "sft" or row.get("gain_over_backbone") is None:
            continue
        text = (
            f"{titles.task(row['rows'])}, before RL: a code that knows the next token raises its log-probability by "
            f"{number(row['gain_over_backbone'])} nat, and the codes emit {number(row.get('distinct_tokens'), 1)} "
            "different tokens at a position"
        )
        scored = [each for each in before if each["task"] == row["rows"] and each.get("random") is not None]
        places = [f" in the {each['space']} space" if len(scored) > 1 else "" for each in scored]
        if scored:
            own = " and ".join(
                f"{number(each.get('policy'))}{place}" for each, place in zip(scored, places, strict=True)
            )
            under = " and ".join(dict.fromkeys(number(each["random"]) for each in scored))
            text += f"; answers score {own}, under random codes {under}"
        found.append(f"{text}.")
    return list(dict.fromkeys(found))
