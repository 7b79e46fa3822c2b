"""`lam-jax demo`."""

import dataclasses
from pathlib import Path
from typing import Literal

import tyro

from lam_jax.cli.spaces import SpaceName
from lam_jax.cli.watching import WatchingFlags

# The names of `lam_jax.recipes.demo`, written again because importing it would import jax.
Task = Literal["role_play", "help", "maze", "maze_steps"]
Algorithm = Literal["grpo", "dr_grpo", "dapo", "bnpo", "gspo", "cispo"]


@dataclasses.dataclass(frozen=True)
class Demo:
    """Runs the whole method on the built-in data set and writes a report.

    A small pretrained vision-language model is loaded and a latent action space is learned from it. Fine-tuning and
    reinforcement learning run with latent actions, with a latent action and the token under it (hybrid), and with
    tokens; OUT/report.html compares them. A run that was interrupted goes on where it stopped.
    """

    out: Path = Path("runs/demo")
    """Output folder: report, metrics (JSONL and TensorBoard), checkpoints."""
    seed: int = 0
    """Seed of everything random; two runs with one seed on one machine give identical metrics."""
    task: tuple[Task, ...] = ("role_play",)
    """Tasks to train. help has four times the SFT steps of role_play; maze is a picture game, maze_steps the same turn
    by turn (docs/environments.md)."""
    algorithm: Algorithm | None = None
    """Reinforcement learning algorithm for all tasks. Default: dapo for role_play, grpo for the others."""
    validate_every: int = 0
    """RL steps between two validations; 0: only before the first and after the last step."""
    space: tuple[SpaceName, ...] = ("latent", "hybrid", "token")
    """Action spaces to train."""
    emission: float = 0.5
    """Temperature at which rollouts of the hybrid space draw the token under a code."""
    mesh: tuple[int, int, int] = (1, 1, 1)
    """Sizes of the axes data, fsdp and tensor; their product is at most the number of devices, and all of them where
    several processes run together. A run may be resumed on another mesh."""
    save_every: int = 100
    """Optimiser updates between two checkpoints inside a phase; 0: only on SIGTERM."""
    profile: str | None = None
    """Phase, for example stage1_inverse, of which three steps are traced into OUT/profile (TensorBoard, Perfetto)."""
    watching: tyro.conf.OmitArgPrefixes[WatchingFlags] = WatchingFlags()

    def __post_init__(self):
        if not self.task or len(set(self.task)) < len(self.task):
            raise ValueError(f"--task: found {list(self.task)}, expected one or more different tasks.")
        if not self.space or len(set(self.space)) < len(self.space):
            raise ValueError(f"--space: found {list(self.space)}, expected one or more different action spaces.")
        if not 0 < self.emission < float("inf"):
            raise ValueError(f"--emission: found {self.emission}, expected a temperature of more than 0.")
        if self.seed < 0:
            raise ValueError(f"--seed: found {self.seed}, expected a number that is not negative.")
        if self.validate_every < 0:
            raise ValueError(f"--validate-every: found {self.validate_every}, expected a number that is not negative.")
        if min(self.mesh) < 1:
            sizes = " ".join(map(str, self.mesh))
            raise ValueError(f"--mesh: found {sizes}, expected three sizes of 1 or more: data, fsdp, tensor.")
        if self.save_every < 0:
            raise ValueError(f"--save-every: found {self.save_every}, expected a number of updates, or 0.")

    def run(self) -> None:
        """Runs the demo."""
        from lam_jax.hosts.quick_compilation import compile_quickly
        from lam_jax.hosts.start import start_process
        from lam_jax.pipeline import run_recipe
        from lam_jax.recipes.demo import recipe

        compile_quickly()
        start_process()
        run_recipe(
            recipe(
                self.seed,
                self.task,
                self.algorithm,
                validate_every=self.validate_every,
                space=self.space,
                emission=self.emission,
            ),
            self.out,
            mesh=self.mesh,
            save_every=self.save_every,
            profile=self.profile,
            watching=self.watching.watching(),
        )
