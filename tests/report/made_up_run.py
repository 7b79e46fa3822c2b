"""A small run folder with invented numbers, for the tests of the report only. Nothing here is a measurement."""

import json
import math
import random
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

CODES = 32
TASKS = ("role_play", "help")
SPACES = ("latent", "token")
DIMENSIONS = {
    "role_play": (
        "instruction_adherence",
        "fluency",
        "coherency",
        "image_text_relevance",
        "response_accuracy",
        "personality_consistency",
        "knowledge_consistency",
        "tone_consistency",
    ),
    "help": (
        "role_set_sensitivity",
        "body_behaviour_awareness",
        "mind_feelings_awareness",
        "contextual_awareness",
        "conversational_flow",
    ),
}
ANSWERS = {
    "latent": "Splendid! I see a red apple on the left and a tall giraffe beside it. By my beard, what a sight!",
    "token": "I see a red apple and a tall giraffe. What a sight, my friend, what a lovely quiet sight it is.",
}
REACH = ("gain_over_backbone", "gain_over_policy", "best_gain", "distinct_tokens", "emitted_entropy", "reached")


def _interval(rng: random.Random, mean: float, half: float) -> dict[str, float]:
    mean += rng.uniform(-0.004, 0.004)
    return {"mean": mean, "low": mean - half, "high": mean + half}


def _scores(rng: random.Random) -> list[dict[str, Any]]:
    rows = []
    for task in TASKS:
        for space in SPACES:
            for phase in ("sft", "rl"):
                for split in ("id", "ood"):
                    for temperature in (1.0, 0.1):
                        mean = 0.80 + 0.06 * (phase == "rl") - 0.05 * (split == "ood")
                        mean -= 0.22 * (space == "token" and temperature == 1.0 and phase == "sft")
                        mean -= 0.07 * (space == "token" and temperature == 1.0 and phase == "rl")
                        rows.append(
                            {
                                "task": task,
                                "space": space,
                                "phase": phase,
                                "split": split,
                                "temperature": temperature,
                                "prompts": 64,
                                "samples": 3,
                                **_interval(rng, mean, 0.018),
                                "dimensions": {name: _interval(rng, mean, 0.03) for name in DIMENSIONS[task]},
                                "diversity": 1.0 + 0.2 * temperature + rng.random() / 50,
                                "diversity_reciprocal_mean": 1.01 + 0.2 * temperature + rng.random() / 50,
                                "distinct": 1.2 + 1.7 * temperature,
                                "length": 24 + rng.random() * 6,
                            }
                        )
    return rows


def results(seed: int = 0) -> dict[str, Any]:
    """A complete `results.json` as the demo writes it, with invented values."""
    rng = random.Random(seed)
    weights = [rng.random() ** 2 for _ in range(CODES)]
    usage = [weight / sum(weights) for weight in weights]
    tokens = {space: [" " + word for word in ANSWERS[space].split()] for space in SPACES}
    health = {
        "perplexity": 21.37,
        "used_share": 0.9375,
        "dead_codes": 2,
        "top_share": 0.1234,
        "conditional_entropy": 0.871,
        "mutual_information": 2.19,
        "random_action_kl": 1.313,
    }
    gain = []
    for task in TASKS:
        for space, difference in (("latent", 0.0471), ("token", 0.1523)):
            gain.append(
                {
                    "task": task,
                    "space": space,
                    "algorithm": "dapo" if task == "role_play" else "grpo",
                    "prompts": 256,
                    "before": 0.8123,
                    "after": 0.8123 + difference,
                    "difference": difference,
                    "paired_se": 0.0062,
                    "ratio": difference / 0.0062,
                }
            )
    return {
        "config": {
            "name": "demo",
            "preset": "tiny",
            "seed": seed,
            "rl": {"steps": 40, "samples": 8, "algorithm": "dapo"},
        },
        "tasks": {
            "role_play": {
                "title": "Role play",
                "splits": {"id": "ID: unseen scenes", "ood": "OOD: held-out characters"},
            },
            "help": {
                "title": "Personalised help",
                "splits": {"id": "LS1: known role sets", "ood": "LS2: new role sets"},
            },
        },
        "environment": {"jax": "0.10.2", "python": "3.11.9", "device": "cpu", "cpu_count": 2, "commit": "0123abc"},
        "phases": [
            {"name": name, "seconds": 8.0 + 7.5 * index, "compile_seconds": 2.5 + index / 4}
            for index, name in enumerate(
                ["data", "stage1_inverse", "stage2_projector", "stage3_joint", "stage4_cloning"]
                + [f"{kind}_{space}_{task}" for task in TASKS for space in SPACES for kind in ("sft", "rl")]
            )
        ],
        "reach": [
            {"rows": rows, "after": after, **{key: 0.1234 + i / 7 + j / 50 for j, key in enumerate(REACH)}}
            for i, (rows, after) in enumerate(
                [("paired", "stage4"), ("text_only", "stage4"), *((task, "sft") for task in TASKS)]
            )
        ],
        "reach_scores": [
            {"task": task, "space": space, "policy": 0.6172 + i / 9, "best_of": {"1": 0.6172, "2": 0.7023, "8": 0.8017}}
            | ({"random": 0.5939, "oracle": 0.9046, "backbone": 0.4147} if space == "latent" else {})
            for i, task in enumerate(TASKS)
            for space in SPACES
        ]
        + [
            {
                "task": task,
                "space": space,
                "after": "rl",
                "policy": 0.7173 + i / 9,
                "best_of": {"2": 0.8024, "8": 0.9018},
            }
            | ({"random": 0.4931} if space == "latent" else {})
            for i, task in enumerate(TASKS)
            for space in SPACES
        ],
        "base": {"object_accuracy": 0.9412, "caption_exact": 0.8359, "cross_entropy": 0.6123},
        "latent": {
            "image_text": health,
            "text_only": {key: value * 0.96 for key, value in health.items()},
            "random_action_kl_after_stage4": 1.207,
            "random_action_kl_after_sft": 0.655,
            "cloning_accuracy": 0.614,
            "majority_share": 0.123,
            "usage": usage,
            "usage_text_only": usage[::-1],
        },
        "scores": _scores(rng),
        "gain": gain,
        "speed": [
            {
                "task": task,
                "space": space,
                "rollout_s": 0.512 + 0.1 * (space == "latent"),
                "update_s": 0.211 + 0.4 * (space == "token"),
                "step_s": 0.723 + 0.3 * (space == "token"),
                "rollout_tokens_per_s": 7811.5,
                "update_tokens_per_s": 19345.25,
                "trainable_parameters": 612_352 if space == "latent" else 1_523_968,
            }
            for task in TASKS
            for space in SPACES
        ],
        "rl": [
            {
                "task": task,
                "space": space,
                "steps": list(range(40)),
                "samples": [128.0 * (step + 1) for step in range(40)],
                "seconds": [(0.723 if space == "latent" else 1.023) * (step + 1) for step in range(40)],
                "flops": [(2.5e10 if space == "latent" else 6e10) * (step + 1) for step in range(40)],
            }
            for task in TASKS
            for space in SPACES
        ],
        "fluency": {
            "share": 0.9648,
            "checked": 256,
            "samples": [f"By my beard, number {n}: a red apple sits beside a tall giraffe." for n in range(20)],
        },
        "samples": [
            {
                "task": task,
                "split": split,
                "id": f"{task}-{split}-7",
                "image": f"samples/{task}.png",
                "prompt": [
                    {"role": "system", "content": "You are Captain Brandt, an old sailor. Catchphrase: By my beard!"},
                    {"role": "user", "content": "What do you see in the picture, captain?"},
                    {"role": "assistant", "content": "A fine red apple, by my beard!"},
                    {"role": "user", "content": "And what stands next to it?"},
                ],
                "reference": "Next to the apple stands a tall giraffe. By my beard, it wants a bite!",
                "answers": [
                    {
                        "phase": phase,
                        "space": space,
                        "text": f"{phase.upper()}: {ANSWERS[space]}",
                        "tokens": [f"{phase.upper()}:", *tokens[space]],
                        "actions": [rng.randrange(CODES) for _ in ("", *tokens[space])] if space == "latent" else None,
                        "score": (0.9375 if space == "latent" else 0.8125) - 0.125 * (phase == "sft"),
                        "dimensions": {name: 0.8 + rng.random() / 5 for name in DIMENSIONS[task]},
                    }
                    for space in SPACES
                    for phase in ("sft", "rl")
                ],
            }
            for task in TASKS
            for split in ("id", "ood")
        ],
    }


def metrics(seed: int = 0) -> list[dict[str, Any]]:
    """The lines of a `metrics.jsonl` with invented curves."""
    rng = random.Random(seed)
    lines = []
    for stage, names in {
        "stage1_inverse": ("loss", "ce_paired"),
        "stage2_projector": ("loss",),
        "stage3_joint": ("loss", "ce_paired", "ce_text"),
        "stage4_cloning": ("loss", "cloning_paired", "cloning_text", "accuracy_paired"),
    }.items():
        for step in range(0, 300, 10):
            line = {"phase": stage, "step": step, "time": step / 10}
            for place, name in enumerate(names):
                line[name] = 2.5 * math.exp(-step / 90) + 0.5 + 0.2 * place + rng.random() / 20
            if "projector" not in stage:
                for kind in ("", "text_"):
                    line[f"{kind}perplexity"] = 12 + 10 * (1 - math.exp(-step / 60)) + rng.random()
                    line[f"{kind}used_share"] = 0.7 + 0.25 * (1 - math.exp(-step / 60))
                    line[f"{kind}top_share"] = 0.3 * math.exp(-step / 100) + 0.1
            lines.append(line)
    for task in TASKS:
        for space in SPACES:
            for step in range(30):
                lines.append({"phase": f"sft_{space}_{task}", "step": step, "time": 0.1, "loss": 1.5 / (1 + step / 9)})
            for step in range(40):
                rise = 1 - math.exp(-step / 15)
                start = 0.82 if space == "latent" else 0.6
                lines.append(
                    {
                        "phase": f"rl_{space}_{task}",
                        "step": step,
                        "time": 0.5 * step,
                        "reward_mean": start + 0.1 * rise + rng.random() / 40,
                        "kl": 0.03 * rise,
                        "entropy": 1.4 - 0.3 * rise,
                        "clip_fraction": 0.02 * rng.random(),
                        "length": 27 + 2 * rng.random(),
                        **({"eval_score": start + 0.08 * rise} if step % 10 == 0 else {}),
                    }
                )
    return lines


def write_run(folder: Path, run_results: dict[str, Any] | None = None, lines: list[dict] | None = None) -> Path:
    """Writes results, metrics and two pictures into `folder` and returns it."""
    (folder / "samples").mkdir(parents=True, exist_ok=True)
    for index, task in enumerate(TASKS):
        image = Image.new("RGB", (112, 84), (214, 232, 240) if index else (238, 226, 205))
        draw = ImageDraw.Draw(image)
        draw.ellipse((14, 34, 48, 68), fill=(200, 60, 50))
        draw.rectangle((72, 14, 84, 72), fill=(226, 178, 70))
        image.save(folder / "samples" / f"{task}.png")
    (folder / "results.json").write_text(json.dumps(results() if run_results is None else run_results))
    text = "".join(json.dumps(line) + "\n" for line in (metrics() if lines is None else lines))
    (folder / "metrics.jsonl").write_text(text)
    return folder
