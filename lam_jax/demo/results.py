"""Collects what the demo measured into results.json, with the pictures that the report shows."""

import importlib.metadata
import json
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import jax

from lam_jax.data.schemas import image_bytes
from lam_jax.demo.material import Material
from lam_jax.demo.settings import TASK_SPLITS
from lam_jax.demo.tasks import gain
from lam_jax.runs.run import Run, jsonable

Record = dict[str, Any]
SHOWN_SAMPLES = 4  # conversations of each split in the report
FLUENCY_SAMPLES = 20


def environment() -> Record:
    """Versions and device of this run."""
    return {
        "lam_jax": importlib.metadata.version("lam_jax"),
        "jax": jax.__version__,
        "python": platform.python_version(),
        "device": jax.devices()[0].device_kind,
        "cpu_count": os.cpu_count(),
        "commit": _commit(),
    }


def _commit() -> str:
    try:
        command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def collect(
    run: Run,
    material: Material,
    base: Record,
    latent: Record,
    scores: dict[tuple[str, str, str], Record],
    speed: list[Record],
) -> Record:
    """The whole of results.json. `scores` is keyed by (task, space, phase)."""
    gains = []
    for (task, space, phase), after in scores.items():
        if phase == "rl":
            figures = gain(scores[task, space, "sft"]["fixed"], after["fixed"])
            gains.append({"task": task, "space": space, "algorithm": material.config.algorithms[task], **figures})
    return {
        "config": jsonable(material.config),
        "environment": environment(),
        "phases": run.timings(),
        "base": base,
        "latent": latent,
        "scores": [row for record in scores.values() for row in record["scores"]],
        "gain": gains,
        "speed": speed,
        "fluency": _fluency(scores),
        "samples": _samples(run.folder, material, scores),
    }


def _fluency(scores: dict[tuple[str, str, str], Record]) -> Record:
    """Latent answers after SFT, sampled at temperature 1, of all tasks; the first 20 of each kind in turn."""
    chosen = [record for (_, space, phase), record in scores.items() if (space, phase) == ("latent", "sft")]
    checked = sum(r["fluency"]["checked"] for r in chosen)
    passed = sum(r["fluency"]["share"] * r["fluency"]["checked"] for r in chosen)
    texts = [
        a["text"]
        for rank in range(20)
        for r in chosen
        for split in r["answers"].values()
        for a in split[rank : rank + 1]
    ]
    return {"share": passed / max(1, checked), "checked": checked, "samples": texts[:FLUENCY_SAMPLES]}


def _samples(folder: Path, material: Material, scores: dict[tuple[str, str, str], Record]) -> list[Record]:
    """Conversations with the answers of each space in its last phase."""
    (folder / "samples").mkdir(exist_ok=True)
    out = []
    for task in material.config.tasks:
        for split, name in zip(TASK_SPLITS[task], ("id", "ood")):
            for index, example in enumerate(material.examples(task, split)[:SHOWN_SAMPLES]):
                image = f"samples/{example.id}.png"
                (folder / image).write_bytes(image_bytes(example.images[0], example.where))
                out.append(
                    {
                        "task": task,
                        "split": name,
                        "id": example.id,
                        "image": image,
                        "prompt": [dict(message) for message in example.prompt],
                        "reference": example.reference,
                        "answers": [
                            {key: value for key, value in record["answers"][name][index].items() if key != "id"}
                            for (t, _, phase), record in scores.items()
                            if t == task and phase == "rl"
                        ],
                    }
                )
    return out


def write_results(folder: Path, results: Record) -> None:
    """Writes results.json, whole or not at all."""
    new = folder / "results.json.new"
    new.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    new.replace(folder / "results.json")
