"""Flags of what is shown and logged while a run goes on; commands that start one hold them as a field."""

import dataclasses
from typing import Literal

from lam_jax.runs.watching import Watching


@dataclasses.dataclass(frozen=True)
class WatchingFlags:
    """What is shown and logged while the run goes on; no result depends on it."""

    samples_every: int = 10
    """RL steps between two looks at sample answers, in OUT/samples.html and OUT/samples.jsonl; the first and the last
    step are looked at too. 0: none."""
    shown: int = 4
    """Prompts of a step that are shown, each with all its answers."""
    dump_rollouts: bool = False
    """Write every sample of every RL rollout, with tokens and log-probabilities, to OUT/rollouts/PHASE.jsonl."""
    log: tuple[Literal["tensorboard", "wandb", "mlflow"], ...] = ("tensorboard",)
    """Where metrics go besides OUT/metrics.jsonl; wandb and mlflow need the extras of that name."""

    def __post_init__(self):
        self.watching()

    def watching(self) -> Watching:
        """The settings of a run.

        Raises:
            ValueError: a number that is too small, or a sink that is named twice.
        """
        for name, least in (("samples_every", 0), ("shown", 1)):
            if getattr(self, name) < least:
                flag = name.replace("_", "-")
                raise ValueError(f"--{flag}: found {getattr(self, name)}, expected at least {least}.")
        if len(set(self.log)) < len(self.log):
            raise ValueError(f"--log: found {' '.join(self.log)}, expected different sinks.")
        return Watching(self.samples_every, self.shown, self.dump_rollouts, self.log)
