"""Compares the three readouts and the SFT recipes once at demo scale (method.md section 2, method.md section 3).

    .venv/bin/python -m experiments.compare_recipes --out runs/recipes

Every readout learns its own latent action space (stages 1 to 4) and fine-tunes on role play by the default recipe; the
other recipes are tried with the default readout. Writes OUT/recipes.json and prints a table: cross-entropy of stage 1
on held-out rows, codes in use, KL between the next-token distributions under the policy's and under a random code after
stage 4 and after SFT, and score, distinct answers and fluency of answers sampled at temperature 1. A run that was
interrupted goes on where it stopped.
"""

import dataclasses
import json
from pathlib import Path

import tyro
from rich.console import Console
from rich.table import Table

from lam_jax.cpu.host_memory import keep_host_memory
from lam_jax.demo import control_after_sft, probe
from lam_jax.demo.latent import learn_latent_actions
from lam_jax.demo.material import Material
from lam_jax.demo.settings import DemoConfig
from lam_jax.demo.tasks import TaskRun
from lam_jax.hosts.compilation import keep_compiled_programs
from lam_jax.parallel import make_mesh
from lam_jax.runs.metrics import read_metrics
from lam_jax.runs.run import Run

# (readout, recipe): every readout under the default recipe, every recipe under the default readout.
PAIRS = (("merged", "joint"), ("delta", "joint"), ("block", "joint"), ("merged", "released"), ("merged", "guided"))


@dataclasses.dataclass(frozen=True)
class Config:
    """Where to write, and the seed."""

    out: Path = Path("runs/recipes")
    seed: int = 0


def compare(config: Config) -> list[dict]:
    rows = []
    for readout, recipe in PAIRS:
        demo = DemoConfig(seed=config.seed, tasks=("role_play",))
        demo = dataclasses.replace(demo, method=dataclasses.replace(demo.method, sft=recipe).with_readout(readout))
        # Stages 1 to 4 do not depend on the recipe: they are learned once a readout.
        shared = dataclasses.replace(demo, method=dataclasses.replace(demo.method, sft="released"))
        with Run(config.out / readout, shared) as run:
            material = Material.open(shared, config.out / "data", make_mesh())
            agent = learn_latent_actions(run, material, material.base_agent())
            probed = run.phase("codes", lambda m=material, a=agent: (None, probe(m, a))).record
            records = read_metrics(run.folder / "metrics.jsonl")
            evaluated = [r for r in records if r["phase"] == "stage1_inverse" and "eval_ce" in r]
        with Run(config.out / f"{readout}_{recipe}", demo) as run:
            job = TaskRun(run, dataclasses.replace(material, config=demo), "role_play", "latent", agent)
            job.fine_tune()
            control = control_after_sft(run, job)
            record = job.score("sft")
        score = next(s for s in record["scores"] if s["split"] == "id" and s["temperature"] == 1.0)
        rows.append(
            {
                "readout": readout,
                "recipe": recipe,
                "stage1_ce": evaluated[-1]["eval_ce"],
                "used_share": probed["image_text"]["used_share"],
                "random_action_kl_after_stage4": probed["random_action_kl_after_stage4"],
                "random_action_kl_after_sft": control,
                "score": score["mean"],
                "distinct": score["distinct"],
                "fluent": record["fluency"]["share"],
            }
        )
    return rows


def main(config: Config) -> None:
    keep_compiled_programs()
    keep_host_memory()
    rows = compare(config)
    (config.out / "recipes.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    table = Table(*rows[0])
    for row in rows:
        table.add_row(*(v if isinstance(v, str) else f"{v:.3f}" for v in row.values()))
    Console().print(table)


if __name__ == "__main__":
    main(tyro.cli(Config))
