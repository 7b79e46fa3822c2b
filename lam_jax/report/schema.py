"""What `results.json` may hold: the keys of each section and the kind of value each one takes."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Row = dict[str, Any]
RUN_AGAIN = "run the command or script of the run again"


class RunFilesError(ValueError):
    """A file of the run folder is missing or malformed; the message names file, key, found and expected."""


@dataclass(frozen=True)
class Kind:
    """One sort of JSON value: the words for it in an error message, and the test for it."""

    words: str
    accepts: Callable[[Any], bool]


def is_number(value: Any) -> bool:
    """An int or a float; a bool, which Python counts as an int, is none."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def _one_of(*values: str) -> Kind:
    return Kind("one of " + ", ".join(repr(value) for value in values), lambda value: value in values)


def _list_of(words: str, accepts: Callable[[Any], bool]) -> Kind:
    return Kind(f"a list of {words}", lambda value: isinstance(value, list) and all(accepts(item) for item in value))


def optional(kind: Kind) -> Kind:
    """A kind, or null."""
    return Kind(f"{kind.words} or null", lambda value: value is None or kind.accepts(value))


TEXT = Kind("a string", lambda value: isinstance(value, str))
NUMBER = Kind("a number", is_number)
OBJECT = Kind("an object", lambda value: isinstance(value, dict))
LIST = Kind("a list", lambda value: isinstance(value, list))
SCALARS = Kind(
    "an object of numbers",
    lambda value: isinstance(value, dict) and all(item is None or is_number(item) for item in value.values()),
)
INTERVALS = Kind(
    "an object of {mean, low, high}",
    lambda value: (
        isinstance(value, dict)
        and all(
            isinstance(item, dict) and all(is_number(item.get(key)) for key in ("mean", "low", "high"))
            for item in value.values()
        )
    ),
)
SPACE = _one_of("latent", "hybrid", "token")
STRINGS = _list_of("strings", lambda item: isinstance(item, str))
NUMBERS = _list_of("numbers", is_number)
CODES = _list_of("integers >= 0", lambda item: isinstance(item, int) and not isinstance(item, bool) and item >= 0)

# Per section: keys that every row must have, then keys that may be missing (the report then shows a dash).
Spec = tuple[dict[str, Kind], dict[str, Kind]]
PHASE: Spec = ({"name": TEXT, "seconds": NUMBER}, {"compile_seconds": optional(NUMBER)})
SCORE: Spec = (
    {
        "task": TEXT,
        "space": SPACE,
        "phase": _one_of("sft", "rl"),
        "split": TEXT,
        "temperature": NUMBER,
        "mean": NUMBER,
        "low": NUMBER,
        "high": NUMBER,
    },
    {
        "prompts": optional(NUMBER),
        "samples": optional(NUMBER),
        "dimensions": optional(INTERVALS),
        "diversity": optional(NUMBER),
        "diversity_reciprocal_mean": optional(NUMBER),
        "lexical_diversity": optional(NUMBER),
        "lexical_diversity_reciprocal_mean": optional(NUMBER),
        "distinct": optional(NUMBER),
        "length": optional(NUMBER),
    },
)
GAIN: Spec = (
    {"task": TEXT, "space": SPACE, "before": NUMBER, "after": NUMBER, "difference": NUMBER, "paired_se": NUMBER},
    {"algorithm": TEXT, "prompts": optional(NUMBER), "ratio": optional(NUMBER)},
)
SPEED_KEYS = (
    "rollout_s",
    "update_s",
    "step_s",
    "rollout_tokens_per_s",
    "update_tokens_per_s",
    "trainable_parameters",
)
SPEED: Spec = ({"task": TEXT, "space": SPACE}, {key: optional(NUMBER) for key in SPEED_KEYS})
COST: Spec = (
    {"task": TEXT, "space": SPACE, "steps": NUMBERS},
    {key: NUMBERS for key in ("samples", "seconds", "flops")},
)
FLUENCY: Spec = ({"share": NUMBER}, {"checked": optional(NUMBER), "samples": STRINGS})
SAMPLE: Spec = (
    {"prompt": LIST, "answers": LIST},
    {"task": TEXT, "split": TEXT, "id": TEXT, "image": optional(TEXT), "reference": optional(TEXT)},
)
MESSAGE: Spec = ({"role": TEXT, "content": TEXT}, {})
ANSWER: Spec = (
    {"space": SPACE, "text": TEXT},
    {
        "phase": _one_of("sft", "rl"),
        "tokens": optional(STRINGS),
        "actions": optional(CODES),
        "score": optional(NUMBER),
        "dimensions": OBJECT,
    },
)
REACH: Spec = (
    {"rows": TEXT, "after": _one_of("stage4", "sft")},
    {
        key: optional(NUMBER)
        for key in (
            "positions",
            "gain_over_backbone",
            "gain_over_policy",
            "best_gain",
            "distinct_tokens",
            "emitted_entropy",
            "policy_emitted_entropy",
            "reached",
            "inferred_reached",
            "backbone_reached",
        )
    },
)
REACH_SCORES: Spec = (
    {"task": TEXT, "space": SPACE},
    {key: optional(NUMBER) for key in ("prompts", "samples", "policy", "random", "lead", "lead_se")}
    | {key: optional(NUMBER) for key in ("oracle", "backbone")}
    | {"after": TEXT}
    | {key: optional(SCALARS) for key in ("best_of", "random_best_of")},
)
TITLES: Spec = ({"title": TEXT}, {"splits": OBJECT})
LATENT: Spec = (
    {},
    {
        "image_text": optional(SCALARS),
        "text_only": optional(SCALARS),
        "usage": optional(NUMBERS),
        "usage_text_only": optional(NUMBERS),
    },
)


def shown(value: Any) -> str:
    """A value as an error message quotes it: cut to a line, with its type."""
    text = repr(value)
    return f"{text if len(text) <= 60 else text[:57] + '...'} ({type(value).__name__})"


Fail = Callable[[str, str, str], RunFilesError]


def _fail(where: str, found: str, expected: str) -> RunFilesError:
    return RunFilesError(
        f"results.json: {where}: found {found}, expected {expected}. "
        f"Correct the file, or delete it and {RUN_AGAIN}, which writes it again."
    )


def check_object(value: Any, spec: Spec, where: str, fail: Fail = _fail) -> None:
    """Raises `RunFilesError`, made by `fail`, at the first key of an object that is missing or has a wrong value."""
    if not isinstance(value, dict):
        raise fail(where, shown(value), "an object")
    required, optional = spec
    for key, kind in {**required, **optional}.items():
        if key not in value:
            if key in required:
                raise fail(f"{where}.{key}", "no such key", kind.words)
        elif not kind.accepts(value[key]):
            raise fail(f"{where}.{key}", shown(value[key]), kind.words)


def _check_rows(results: Row, key: str, spec: Spec) -> list[Row]:
    rows = results.get(key)
    if rows is None:
        return []
    if not isinstance(rows, list):
        raise _fail(key, shown(rows), "a list")
    for index, row in enumerate(rows):
        check_object(row, spec, f"{key}[{index}]")
    return rows


def check_results(results: Any) -> Row:
    """Returns `results` as it is; raises `RunFilesError` at the first key that is missing or has a wrong value.

    Whole sections may be missing: an interrupted run, or one with a single task or action space, is no error.
    """
    if not isinstance(results, dict):
        raise _fail("(top level)", shown(results), "an object")
    for key in ("config", "environment", "tasks"):
        if not isinstance(results.get(key) or {}, dict):
            raise _fail(key, shown(results[key]), "an object")
    for name, titles in (results.get("tasks") or {}).items():
        check_object(titles, TITLES, f"tasks.{name}")
    if results.get("base") is not None and not SCALARS.accepts(results["base"]):
        raise _fail("base", shown(results["base"]), SCALARS.words)
    _check_rows(results, "phases", PHASE)
    _check_rows(results, "scores", SCORE)
    _check_rows(results, "gain", GAIN)
    _check_rows(results, "speed", SPEED)
    _check_rows(results, "reach", REACH)
    _check_rows(results, "reach_scores", REACH_SCORES)
    for index, row in enumerate(_check_rows(results, "rl", COST)):
        for key in COST[1]:
            if key in row and len(row[key]) != len(row["steps"]):
                expected = f"one for each of the {len(row['steps'])} steps"
                raise _fail(f"rl[{index}].{key}", f"{len(row[key])} numbers", expected)
    if results.get("latent") is not None:
        check_object(results["latent"], LATENT, "latent")
    if results.get("fluency") is not None:
        check_object(results["fluency"], FLUENCY, "fluency")
    for index, sample in enumerate(_check_rows(results, "samples", SAMPLE)):
        where = f"samples[{index}]"
        for turn, message in enumerate(sample["prompt"]):
            check_object(message, MESSAGE, f"{where}.prompt[{turn}]")
        for number, answer in enumerate(sample["answers"]):
            check_object(answer, ANSWER, f"{where}.answers[{number}]")
            tokens, actions = answer.get("tokens"), answer.get("actions")
            if actions is not None and len(actions) != len(tokens or ()):
                raise _fail(
                    f"{where}.answers[{number}].actions",
                    f"{len(actions)} actions",
                    f"one for each of the {len(tokens or ())} tokens",
                )
    return results
