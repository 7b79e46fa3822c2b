"""How far the codes can move the answers, at demo scale: SFT recipe and Gumbel noise against each other.

    .venv/bin/python -m experiments.reach --out runs/reach --gumbel off --sft learn

Stages 1 to 4 are learned once for a setting of the noise and a seed, stage 5 for each SFT recipe and number of its
steps. Adds what the probe found to OUT/reach.jsonl and prints it. A run that was interrupted goes
on where it stopped.
"""

import dataclasses
import json
from pathlib import Path

import tyro
from rich.console import Console

from lam_jax.hosts.start import start_process
from lam_jax.pipeline import fine_tune, learn_actions, open_run
from lam_jax.pipeline.phases import REACH, reach_phase
from lam_jax.pipeline.reach import measure_learned_reach, measure_reach
from lam_jax.recipe import Recipe
from lam_jax.recipes.demo import TaskName, recipe
from lam_jax.train.method import Gumbel, Method, SFTRecipe
from lam_jax.train.spaces import LATENT, PAPER_SPACES


@dataclasses.dataclass(frozen=True)
class Config:
    """What is trained, and where it is written."""

    out: Path = Path("runs/reach")
    seed: int = 0
    gumbel: Gumbel = "on"
    sft: SFTRecipe = "joint"
    """Recipe of stage 5."""
    sft_gumbel: Gumbel | None = None
    """Noise of stage 5. Default: as in the stages before."""
    steps: int = 70
    """Of stage 5."""
    task: TaskName = "role_play"

    def recipe(self) -> Recipe:
        """Of stage 5 and the probe."""
        method = Method(sft=self.sft, gumbel=self.sft_gumbel or self.gumbel)
        found = recipe(self.seed, (self.task,), method=method, space=PAPER_SPACES)
        return dataclasses.replace(found, sft=dataclasses.replace(found.sft, steps=self.steps))


def main(config: Config) -> None:
    start_process()
    own = config.recipe()
    # Stages 1 to 4 depend on neither the SFT recipe nor the task.
    method = Method(sft="released", gumbel=config.gumbel)
    shared = recipe(config.seed, ("role_play", "help"), method=method, space=PAPER_SPACES)
    with open_run(shared, config.out / f"codes_{config.gumbel}_{config.seed}", save_every=100) as (run, resources):
        agent = learn_actions(run, resources, resources.base_agent())
        learned = run.phase(REACH, lambda: (None, measure_learned_reach(resources, agent))).record["reach"]
    name = f"{config.task}_{config.gumbel}_{config.sft}_{own.method.gumbel}_{own.sft.steps}_{config.seed}"
    with open_run(own, config.out / name, save_every=100) as (run, resources):
        (task,) = own.tasks
        tuned = fine_tune(run, resources, task, LATENT, agent)
        found = run.phase(reach_phase(task.name, LATENT), lambda: (None, measure_reach(resources, task, LATENT, tuned)))
    after = {row["rows"]: row["gain_over_backbone"] for row in learned}
    row = dataclasses.asdict(config) | {"out": str(config.out), "steps": own.sft.steps, "gain_after_stage4": after}
    with (config.out / "reach.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(row | found.record) + "\n")
    Console().print(row | found.record)


if __name__ == "__main__":
    main(tyro.cli(Config))
