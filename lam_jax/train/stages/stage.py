"""What a stage is: loss, noise, kind of batch and trained parts together. Each stage's file declares its own."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from flax import struct
from jaxtyping import Array

from lam_jax.latent.agent import Agent
from lam_jax.models.config import BackboneConfig
from lam_jax.models.inputs import Batch
from lam_jax.train.method import Method
from lam_jax.train.partition import Choice, Last
from lam_jax.train.stages.objective import Objective, as_loss

Loss = Callable[[Agent, Any, Any, Method], tuple[Array, dict[str, Array]]]
MakeObjective = Callable[[Agent, Any, Any, Method], Objective]
Trains = Callable[[BackboneConfig, Method], Mapping[str, Choice]]
Noise = Callable[[Any, Array, int], Any]


@dataclasses.dataclass(frozen=True)
class Stage:
    """One of stages 1 to 5.

    Attributes:
        name: as method.md section 3 calls it.
        objective: (agent, batch, noise, method) -> what is minimised and logged.
        trains: (config of the backbone, method) -> what trains, for `partition`.
        noise: (batch, key, codes) -> the Gumbel noise that the loss takes; None: it takes none.
        mixed: its batches are `MixedBatch`, else `Batch` of paired rows.
    """

    name: str
    objective: MakeObjective
    trains: Trains
    noise: Noise | None = None
    mixed: bool = False

    @property
    def loss(self) -> Loss:
        """(agent, batch, noise, method) -> (loss, metrics)."""
        return as_loss(self.objective)


class MixedBatch(struct.PyTreeNode):
    """Paired rows, and text-only rows (None in the ablation without them)."""

    paired: Batch
    text: Batch | None


def whole(*parts: str) -> Trains:
    """Trains these parts whole, whatever the sizes and switches."""

    def trains(config: BackboneConfig, method: Method) -> Mapping[str, Choice]:
        return dict.fromkeys(parts, True)

    return trains


def backbone_top(config: BackboneConfig, method: Method) -> dict[str, Choice]:
    """The backbone's upper blocks, final norm, embeddings and head: what token RL trains, and stage 5 among others."""
    blocks = Last(method.trained_blocks(config.text.layers))
    top: dict[str, Choice] = {"backbone.blocks": blocks, "backbone.norm": True, "backbone.embedding": True}
    return top if config.text.tied else top | {"backbone.lm_head": True}
