"""Compares the three readouts and the SFT recipes once at demo scale (method.md section 2, method.md section 3).

    .venv/bin/python -m experiments.compare_recipes --out runs/recipes

Every readout learns its own latent action space (stages 1 to 4) and fine-tunes on role play by the recipe `joint`;
other recipes are tried with the default readout. Writes OUT/recipes.json and prints a table: cross-entropy of stage 1
on held-out rows, codes in use, KL between the next-token distributions under the policy's and under a random code after
stage 4 and after SFT, and score, distinct answers and fluency of answers sampled at temperature 1. A run that was
interrupted goes on where it stopped.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import tyro
from rich.console import Console
from rich.table import Table

from lam_jax.hosts.start import start_process
from lam_jax.pipeline import evaluate, fine_tune, learn_actions, open_run
from lam_jax.pipeline.measures import measure_codes, measure_control
from lam_jax.recipe import Recipe
from lam_jax.recipes.demo import recipe
from lam_jax.runs.metrics import read_metrics
from lam_jax.train.method import Method
from lam_jax.train.spaces import LATENT

# (readout, recipe): every readout under the default recipe, every recipe under the default readout.
SFT_STEPS = 70
PAIRS = (("merged", "joint"), ("delta", "joint"), ("block", "joint"), ("merged", "released"), ("merged", "guided"))


@dataclasses.dataclass(frozen=True)
class Config:
    """Where to write, and the seed."""

    out: Path = Path("runs/recipes")
    seed: int = 0


def _recipe(seed: int, readout: str, sft: Any) -> Recipe:
    found = recipe(seed, ("role_play",), method=Method(sft=sft).with_readout(readout), space=("latent",))
    return dataclasses.replace(found, sft=dataclasses.replace(found.sft, steps=SFT_STEPS))


def compare(config: Config) -> list[dict]:
    rows = []
    for readout, sft in PAIRS:
        # Stages 1 to 4 do not depend on the SFT recipe: they are learned once a readout.
        shared, own = (_recipe(config.seed, readout, name) for name in ("released", sft))
        with open_run(shared, config.out / readout) as (run, resources):
            agent = learn_actions(run, resources, resources.base_agent())
            probed = run.phase("codes", lambda r=resources, a=agent: (None, measure_codes(r, a))).record
            records = read_metrics(run.folder / "metrics.jsonl")
            evaluated = [r for r in records if r["phase"] == "stage1_inverse" and "eval_ce" in r]
        with open_run(own, config.out / f"{readout}_{sft}") as (run, resources):
            (task,) = own.tasks
            agent = fine_tune(run, resources, task, LATENT, agent)
            control = run.phase(
                "control_role_play", lambda r=resources, t=task, a=agent: (None, measure_control(r, t, a))
            )
            record = evaluate(run, resources, task, LATENT, agent, "sft")
        score = next(s for s in record["scores"] if s["split"] == "id" and s["temperature"] == 1.0)
        rows.append(
            {
                "readout": readout,
                "recipe": sft,
                "stage1_ce": evaluated[-1]["eval_ce"],
                "used_share": probed["image_text"]["used_share"],
                "random_action_kl_after_stage4": probed["random_action_kl_after_stage4"],
                "random_action_kl_after_sft": control.record["random_action_kl"],
                "score": score["mean"],
                "distinct": score["distinct"],
                "fluent": record["fluency"]["share"],
            }
        )
    return rows


def main(config: Config) -> None:
    start_process()
    rows = compare(config)
    (config.out / "recipes.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    table = Table(*rows[0])
    for row in rows:
        table.add_row(*(v if isinstance(v, str) else f"{v:.3f}" for v in row.values()))
    Console().print(table)


if __name__ == "__main__":
    main(tyro.cli(Config))
