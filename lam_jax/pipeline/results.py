"""Collects what a run measured into results.json, with the pictures that the report shows."""

import importlib.metadata
import io
import itertools
import json
import logging
import os
import platform
import re
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
from PIL import Image, ImageOps

import lam_jax
from lam_jax.data.schemas import DataError, Example, image_bytes
from lam_jax.pipeline.finished import RESULTS, records_hash
from lam_jax.pipeline.measures import Record, gain
from lam_jax.pipeline.resources import Resources
from lam_jax.runs.run import PhaseResult, Run
from lam_jax.train.spaces import SPACES
from lam_jax.values import encode

logger = logging.getLogger("lam_jax")
Scores = dict[tuple[str, str, str], Record]  # by task, space and phase
SHOWN_SAMPLES = 4  # conversations of each split in the report
SHOWN_SIDE = 640  # pixels
CHECKED_SAMPLES = 20


def environment() -> Record:
    """Versions, device and, in a checkout, the commit of this process."""
    commit = source_commit(Path(lam_jax.__file__).parent)
    return {
        "lam_jax": importlib.metadata.version("lam_jax"),
        "jax": jax.__version__,
        "python": platform.python_version(),
        "device": jax.devices()[0].device_kind,
        "cpu_count": os.cpu_count(),
        **({"commit": commit} if commit else {}),
    }


def source_commit(package: Path) -> str | None:
    """The commit of a package whose folder stands at the top of a git repository that tracks it; else None.

    An installed package may lie inside somebody's repository, whose commits say nothing about it.
    """

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(package), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")).resolve() != package.resolve().parent:
            return None
        git("ls-files", "--error-unmatch", "__init__.py")
        return git("rev-parse", "--short", "HEAD")
    except (OSError, subprocess.CalledProcessError):
        return None


def environment_of(phases: Iterable[PhaseResult]) -> Record:
    """Where the numbers of a run were made: of each entry the value, or all values where the phases have several."""
    found: dict[str, list[Any]] = {}
    for phase in phases:
        for key, value in phase.environment.items():
            if value not in (values := found.setdefault(key, [])):
                values.append(value)
    return {key: values[0] if len(values) == 1 else ", then ".join(map(str, values)) for key, values in found.items()}


def collect(
    run: Run, resources: Resources, base: Record, latent: Record, scores: Scores, speed: list[Record]
) -> Record:
    """The whole of results.json."""
    recipe = resources.recipe
    gains = []
    for (task, space, phase), after in scores.items():
        if phase == "rl":
            figures = gain(scores[task, space, "sft"]["fixed"], after["fixed"])
            if figures is None:
                logger.warning(
                    "Task %s, %s: fewer than two of the fixed training prompts have a reward before and after RL, so "
                    "its gain is not told",
                    *(task, space),
                )
                continue
            algorithm = recipe.rl.algorithm_of(task).name
            gains.append({"task": task, "space": space, "algorithm": algorithm, **figures})
    titles = {
        task.name: {"title": task.title, "splits": {key: split.title for key, split in task.tests.items()}}
        for task in recipe.tasks
    }
    return {
        "config": encode(recipe, "recipe"),
        "environment": environment_of(run.results.values()),
        "tasks": titles,
        "phases": run.timings(),
        "records": records_hash(run.phases, run.results),
        "base": base,
        "latent": latent,
        "scores": [row for record in scores.values() for row in record["scores"]],
        "gain": gains,
        "speed": speed,
        "rl": [
            {"task": task, "space": space, **run.results[f"rl_{space}_{task}"].record["cost"]}
            for task, space, phase in scores
            if phase == "rl" and "cost" in run.results[f"rl_{space}_{task}"].record
        ],
        "fluency": _fluency(scores),
        "samples": _samples(run.folder, resources, scores),
    }


def _fluency(scores: Scores) -> Record | None:
    """Answers in codes of the first set after SFT, of all tasks that check texts; the first 20 of each kind in turn."""
    coded = next((space for _, space, _ in scores if SPACES[space].coded), None)
    chosen = [r for (_, space, phase), r in scores.items() if (space, phase) == (coded, "sft") and r["fluency"]]
    if not chosen:
        return None
    checked = sum(r["fluency"]["checked"] for r in chosen)
    passed = sum(r["fluency"]["share"] * r["fluency"]["checked"] for r in chosen)
    texts = [
        a["text"]
        for rank in range(CHECKED_SAMPLES)
        for r in chosen
        for split in r["answers"].values()
        for a in split[rank : rank + 1]
    ]
    return {"share": passed / max(1, checked), "checked": checked, "samples": texts[:CHECKED_SAMPLES]}


def _samples(folder: Path, resources: Resources, scores: Scores) -> list[Record]:
    """Conversations with the answers of each space after stages 5 and 6."""
    (folder / "samples").mkdir(exist_ok=True)

    def answer(shown: Record) -> Record:
        return {key: value for key, value in shown.items() if key != "id"}

    out = []
    for task in resources.recipe.tasks:
        for name, scored in task.tests.items():
            # By row: bad ones that were skipped have no answers.
            answers = [
                (phase, {shown["id"]: shown for shown in record["answers"][name]})
                for (t, _, phase), record in scores.items()
                if t == task.name
            ]
            examples = (e for e in resources.examples(task.name, scored.split) if all(e.id in by for _, by in answers))
            for index, example in enumerate(itertools.islice(examples, SHOWN_SAMPLES)):
                image = None
                if example.images:
                    image = f"samples/{re.sub(r'[^A-Za-z0-9_.-]', '_', f'{task.name}_{name}_{index}')}.png"
                    if not _write_png(folder / image, example):
                        image = None
                out.append(
                    {
                        "task": task.name,
                        "split": name,
                        "id": example.id,
                        "image": image,
                        "prompt": [dict(message) for message in example.prompt],
                        "reference": example.reference if example.has_reference else None,
                        "answers": [{"phase": phase, **answer(by[example.id])} for phase, by in answers],
                    }
                )
    return out


def _write_png(path: Path, example: Example) -> bool:
    """Writes the row's first picture for the report; whether it could be read, as it could when it was answered."""
    try:
        content = as_png(image_bytes(example.images[0], example.where))
    except (DataError, OSError, ValueError, SyntaxError) as error:
        logger.warning("%s: its picture is left out of the report: %s", example.where, error)
        return False
    path.write_bytes(content)
    return True


def as_png(content: bytes, side: int = SHOWN_SIDE) -> bytes:
    """A picture for the report: PNG whatever it was, upright, and at most `side` pixels wide and high."""
    with Image.open(io.BytesIO(content)) as opened:
        if opened.format == "PNG" and max(opened.size) <= side:
            return content
        shown = ImageOps.exif_transpose(opened).convert("RGB")
    shown.thumbnail((side, side))
    buffer = io.BytesIO()
    shown.save(buffer, "PNG")
    return buffer.getvalue()


def write_results(folder: Path, results: Record) -> None:
    """Writes results.json, whole or not at all."""
    new = folder / f"{RESULTS}.new"
    new.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    new.replace(folder / RESULTS)
