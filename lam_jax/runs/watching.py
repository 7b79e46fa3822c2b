"""What of a run is shown while it goes on: settings that no result depends on, and so no part of a recipe."""

import dataclasses

SINKS = ("tensorboard", "wandb", "mlflow")


@dataclasses.dataclass(frozen=True)
class Watching:
    """What is shown and logged beside the metrics. A run may be resumed with other settings.

    Attributes:
        samples_every: RL steps between two looks at sample answers (samples.jsonl, samples.html); the first and the
            last step are looked at too. 0: none.
        shown: prompts of a step that are shown, each with all its answers.
        dump_rollouts: every sample of every RL rollout goes to rollouts/PHASE.jsonl.
        sinks: where metrics go besides metrics.jsonl, some of `SINKS`.

    Raises:
        ValueError: a number that is too small, an unknown sink, or one that is named twice.
    """

    samples_every: int = 10
    shown: int = 4
    dump_rollouts: bool = False
    sinks: tuple[str, ...] = ("tensorboard",)

    def __post_init__(self):
        for name, least in (("samples_every", 0), ("shown", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"Watching.{name} is {getattr(self, name)}, expected at least {least}.")
        if unknown := [name for name in self.sinks if name not in SINKS]:
            raise ValueError(f"Watching.sinks holds {unknown[0]!r}, expected some of {list(SINKS)}.")
        if len(set(self.sinks)) < len(self.sinks):
            raise ValueError(f"Watching.sinks is {self.sinks}, expected different sinks.")

    def is_shown(self, step: int, last: int) -> bool:
        """Whether answers of RL step `step`, from 1 on, of `last` are shown."""
        return self.samples_every > 0 and (step in (1, last) or step % self.samples_every == 0)
