"""The first RL steps of a Qwen2.5-VL or Qwen3-VL checkpoint in the latent action space, on one device or on a pod.

    python -m experiments.first_rl_step --out runs/first                                     # the shipped small model
    python -m experiments.first_rl_step --model /shared/qwen3b --mesh 2 8 1 --out runs/first # on every host of a v5e-16

The latent modules are new, so rewards mean nothing: it shows that loading, rollout, reward, update and checkpoints work
at that size. Prompts are those of the built-in data set's task `help`, scored by its rubric.
"""

import dataclasses
import sys
from pathlib import Path
from typing import Any

import tyro

from lam_jax.cli import exit_code, is_expected
from lam_jax.hosts.consistency import require_consistent_weights
from lam_jax.hosts.start import start_process
from lam_jax.latent.config import LatentConfig
from lam_jax.pipeline import open_run, reinforce
from lam_jax.recipe import Model, Recipe, RLSettings, in_every_space
from lam_jax.recipes import demo
from lam_jax.recipes.settings import image_for
from lam_jax.rl import algorithm_named
from lam_jax.rollout.sampling import SamplingConfig
from lam_jax.runs.metrics import read_metrics
from lam_jax.scenes.builder import SceneSizes
from lam_jax.scenes.source import BASE_MODEL_FOLDER
from lam_jax.train.optimiser import OptimiserConfig
from lam_jax.train.spaces import LATENT

SIZES = SceneSizes(
    paired={"train": 1, "test": 1, "caption_test": 1},
    text_only={"train": 1, "test": 1},
    role_play=dict.fromkeys(("sft", "rl", "val", "id_test", "ood_test"), 1),
    help={"sft": 1, "rl": 256, "val": 64, "ls1": 1, "ls2": 1},
)


@dataclasses.dataclass(frozen=True)
class Settings:
    """What the result depends on.

    Attributes:
        model: folder of the backbone.
        steps: rollouts.
        prompts, samples, length: of each rollout; the length in tokens.
        prompt_lengths: buckets; a batch of prompts gets the smallest that holds its longest.
        update_lengths: buckets below `length` for the update; it gets the smallest that holds the longest completion.
        epochs, mini_batches: optimiser updates of each rollout.
        image: height and width to which pictures are scaled; multiples of 28, with a Qwen3-VL of 32.
        latent: sizes of the new modules.
        seed: of everything random.
    """

    model: str = BASE_MODEL_FOLDER
    steps: int = 2
    prompts: int = 4
    samples: int = 8
    prompt_lengths: tuple[int, ...] = (96,)
    length: int = 64
    update_lengths: tuple[int, ...] = (32,)
    epochs: int = 1
    mini_batches: int = 1
    image: tuple[int, int] = (84, 112)
    latent: LatentConfig = LatentConfig()
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class FirstRLStep:
    """Runs a few RL steps; see the file's first lines."""

    out: Path
    """Run folder; every process must see it."""
    mesh: tuple[int, int, int] = (1, 1, 1)
    """data, fsdp, tensor: all devices of all processes."""
    save_every: int = 1
    """Updates between two checkpoints."""
    profile: bool = False
    """Trace three steps, from the third on."""
    settings: tyro.conf.OmitArgPrefixes[Settings] = Settings()


def recipe(settings: Settings) -> Recipe:
    """Latent GRPO on the task `help` of the built-in data set, on a backbone of one's own."""
    base = demo.recipe(settings.seed, ("help",), "grpo", sizes=SIZES)
    lengths = {"prompt_lengths": settings.prompt_lengths, "answer_length": settings.length}
    return dataclasses.replace(
        base,
        name="first_rl_step",
        model=Model(settings.model),
        latent=settings.latent,
        image=image_for(settings.model, settings.image),
        tasks=tuple(dataclasses.replace(task, **lengths) for task in base.tasks),
        spaces=("latent",),
        rl=RLSettings(
            algorithm_named("grpo"),
            optimisers=in_every_space(OptimiserConfig(1e-6)),
            sampling=in_every_space(SamplingConfig()),
            steps=settings.steps,
            prompts=settings.prompts,
            samples=settings.samples,
            epochs=settings.epochs,
            mini_batches=settings.mini_batches,
            update_lengths=settings.update_lengths,
            remat=True,
        ),
    )


def main(command: FirstRLStep) -> list[dict[str, Any]]:
    """Runs or resumes; returns the logged records."""
    start_process()
    profile = "rl_latent_help" if command.profile else None
    own = recipe(command.settings)
    with open_run(own, command.out, command.mesh, command.save_every, profile) as (run, resources):
        agent = resources.base_agent()
        require_consistent_weights(agent)
        reinforce(run, resources, own.tasks[0], LATENT, agent)
        records = [r for r in read_metrics(run.folder / "metrics.jsonl") if "loss" in r]
        last = {name: value for name, value in records[-1].items() if isinstance(value, float)}
        run.progress.say(", ".join(f"{name} {value:.4g}" for name, value in last.items()))
        return records


if __name__ == "__main__":
    try:
        main(tyro.cli(FirstRLStep, description=__doc__))
    except Exception as error:
        if not is_expected(error):
            raise
        print(f"first_rl_step: {error}", file=sys.stderr)
        sys.exit(exit_code(error))
