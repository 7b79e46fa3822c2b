"""The results of `lam-jax evaluate` that belong to a run, read and checked: `evaluations/NAME/evaluation.json`."""

import json
from pathlib import Path

from lam_jax.report.schema import (
    LIST,
    NUMBER,
    OBJECT,
    TEXT,
    Kind,
    Row,
    RunFilesError,
    Spec,
    check_object,
    is_number,
    optional,
    shown,
)

FILE, FOLDER = "evaluation.json", "evaluations"
FORMAT = ("lam_jax evaluation", 1)
_FIX = "Correct the file, or delete it and run the same `lam-jax evaluate` again: what was answered and scored is kept."


def _numbers_of(*keys: str) -> Kind:
    def accepts(value: object) -> bool:
        return isinstance(value, dict) and all(value.get(key) is None or is_number(value[key]) for key in keys)

    return Kind(f"an object of {{{', '.join(keys)}}}", accepts)


SCORE = _numbers_of("mean", "low", "high", "std")
DIMENSIONS = Kind(
    "an object of {mean, low, high, std}",
    lambda value: isinstance(value, dict) and all(SCORE.accepts(item) for item in value.values()),
)
TEXTS = Kind(
    "an object with length, ended, distinct_answers",
    lambda value: (
        isinstance(value, dict)
        and _numbers_of("mean", "p95").accepts(value.get("length"))
        and _numbers_of("ended", "repeated_4grams", "distinct_1", "distinct_2", "distinct_answers").accepts(value)
    ),
)
DIVERSITY = _numbers_of("similarity", "diversity", "reciprocal_mean", "samples", "cut")
RESULT: Spec = ({"scores": LIST, "protocol": OBJECT}, {"comparisons": LIST, "embedder": optional(OBJECT)})
ENTRY: Spec = (
    {"agent": TEXT, "set": TEXT, "title": TEXT, "prompts": NUMBER, "samples": NUMBER, "texts": TEXTS},
    {
        "task": optional(TEXT),
        "space": optional(TEXT),
        "phase": optional(TEXT),
        "reward": optional(TEXT),
        "score": optional(SCORE),
        "dimensions": DIMENSIONS,
        "calls": optional(_numbers_of("calls", "failed", "scored_prompts")),
        "diversity": optional(DIVERSITY),
        "lexical_diversity": optional(DIVERSITY),
        "diversity_texts": optional(TEXTS),
    },
)
COMPARISON: Spec = (
    {"first": TEXT, "second": TEXT, "set": TEXT, "title": TEXT, "test": TEXT}
    | {key: NUMBER for key in ("prompts", "unpaired", "wins", "ties", "losses", "p_value")}
    | {"difference": _numbers_of("mean", "low", "high")},
    {key: optional(NUMBER) for key in ("win_rate", "win_low", "win_high")} | {"second_evaluation": optional(TEXT)},
)


def read_evaluation(path: Path) -> Row:
    """The checked content of an evaluation.json.

    Raises:
        RunFilesError: it is missing, not JSON, of another version, or has a wrong value; names file and key.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise RunFilesError(
            f"{path}: no such file, expected the result of an evaluation. `lam-jax evaluate` writes it at its end."
        ) from error
    except ValueError as error:
        raise RunFilesError(f"{path}: found no JSON ({error}). {_FIX}") from error
    if not isinstance(found, dict) or (found.get("format"), found.get("version")) != FORMAT:
        version = (found.get("format"), found.get("version")) if isinstance(found, dict) else shown(found)
        raise RunFilesError(f"{path}: found {version}, expected format and version {FORMAT}. {_FIX}")

    def fail(where: str, value: str, expected: str) -> RunFilesError:
        return RunFilesError(f"{path}: {where}: found {value}, expected {expected}. {_FIX}")

    check_object(found, RESULT, "(top level)", fail)
    for index, entry in enumerate(found["scores"]):
        check_object(entry, ENTRY, f"scores[{index}]", fail)
    for index, entry in enumerate(found.get("comparisons") or []):
        check_object(entry, COMPARISON, f"comparisons[{index}]", fail)
    return found


def evaluation_files(folder: Path) -> list[Path]:
    """The evaluations in a run's folder, or that of an evaluation's own folder, by name."""
    return sorted([*folder.glob(FILE), *(folder / FOLDER).glob(f"*/{FILE}")])


def read_evaluations(folder: Path) -> list[Row]:
    """The evaluations in a folder, each with its `name`.

    Raises:
        RunFilesError: as of `read_evaluation`.
    """
    return [read_evaluation(path) | {"name": path.parent.resolve().name} for path in evaluation_files(folder)]


def drawn(evaluation: Row) -> str:
    """What was drawn and how it was measured, in a sentence or two."""
    p = evaluation["protocol"]
    text = f"{p.get('samples')} answers a prompt at temperature {p.get('temperature')}"
    if p.get("top_k") is not None:
        text += f" (codes: top-k {p['top_k']})"
    embedder = evaluation.get("embedder")
    if not embedder:
        return f"{text}. Diversity was not measured."
    text += f"; diversity of {p.get('diversity_samples')} at temperature {p.get('diversity_temperature')}"
    if p.get("diversity_top_k") is not None:
        text += f" (codes: top-k {p['diversity_top_k']})"
    if embedder.get("name") == "lexical":
        return f"{text}, lexical: of counts of words, not of sentence embeddings."
    return f"{text}, of sentence embeddings by {embedder.get('name')}."


def agents_of(evaluation: Row) -> list[str]:
    """The agents of an evaluation, in order: tables call them by their numbers, from 1."""
    return list(dict.fromkeys(entry["agent"] for entry in evaluation["scores"]))


def describe_agent(evaluation: Row, name: str) -> str:
    """An agent with its action space and last phase."""
    entry = next(entry for entry in evaluation["scores"] if entry["agent"] == name)
    after = f", after {entry['phase']}" if entry.get("phase") else ""
    return f"{name} ({entry.get('space')} space{after})"


def diversity_of(entry: Row) -> tuple[str, Row | None]:
    """Which kind of diversity an entry has, "Diversity" or "Lexical diversity", and its figures."""
    if entry.get("diversity"):
        return "Diversity", entry["diversity"]
    return "Lexical diversity", entry.get("lexical_diversity")


def failed_kinds(entry: Row) -> str:
    """The failed calls of an entry in words: "3 (2 timeout, 1 refused)"."""
    calls = entry.get("calls")
    if not calls:
        return "–"
    kinds = ", ".join(f"{count} {kind}" for kind, count in (calls.get("kinds") or {}).items())
    return f"{calls['failed']} ({kinds})" if calls["failed"] and kinds else f"{calls['failed']}"
