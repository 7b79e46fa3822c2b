"""From a stage's loss to a jitted training step."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
from jax.sharding import Mesh
from jaxtyping import Array

from lam_jax.latent.agent import Agent
from lam_jax.models.qwen2_5_vl.config import QwenConfig
from lam_jax.nn.layout import Layout
from lam_jax.parallel import TRAIN, constrain_weights, place, use
from lam_jax.parallel.choose_layout import statics
from lam_jax.train.method import Method
from lam_jax.train.optimiser import Optimiser
from lam_jax.train.partition import VOCABULARY_TABLES, Choice, Last, in_dtype, merge
from lam_jax.train.stages import cloning, inverse, joint, projector, sft
from lam_jax.train.stages.inverse_pass import gumbel
from lam_jax.train.stages.joint import MixedBatch
from lam_jax.train.state import TrainState

Loss = Callable[[Agent, Any, Any, Method], tuple[Array, dict[str, Array]]]


@dataclasses.dataclass(frozen=True)
class Stage:
    """What one of stages 1 to 5 optimises.

    Attributes:
        loss: (agent, batch, noise, method) -> (loss, metrics).
        noisy: the loss takes Gumbel noise.
        mixed: its batches are `MixedBatch`, else `Batch` of paired rows.
    """

    loss: Loss
    noisy: bool = False
    mixed: bool = False


STAGES: Mapping[str, Stage] = {
    "inverse": Stage(inverse.inverse_loss, noisy=True),
    "projector": Stage(projector.projector_loss),
    "joint": Stage(joint.joint_loss, noisy=True, mixed=True),
    "cloning": Stage(cloning.cloning_loss, mixed=True),
    "sft_latent": Stage(sft.latent_sft_loss),
    "sft_token": Stage(sft.token_sft_loss),
}
STAGE_PARTS = {
    "inverse": inverse.TRAINS,
    "projector": projector.TRAINS,
    "joint": joint.TRAINS,
    "cloning": cloning.TRAINS,
}


def trainable_parts(stage: str, config: QwenConfig, method: Method) -> Mapping[str, Choice]:
    """What a stage trains, for `partition`.

    Args:
        stage: "inverse", "projector", "joint", "cloning", "sft_latent", "sft_token", "rl_latent", "rl_token".
        config: the backbone's.
        method: switches.

    Raises:
        ValueError: unknown stage.
    """
    if stage in STAGE_PARTS:
        return dict.fromkeys(STAGE_PARTS[stage], True)
    blocks = Last(method.trained_blocks(config.text.layers))
    top: dict[str, Choice] = {"backbone.blocks": blocks, "backbone.norm": True, "backbone.embedding": True}
    if not config.text.tied:
        top["backbone.lm_head"] = True
    parts: dict[str, Mapping[str, Choice]] = {
        "rl_latent": {"latent.policy": True} | ({"backbone.norm": True} if method.train_norm else {}),
        "rl_token": top,
        "sft_token": {"backbone.vision": True, **top},
        "sft_latent": {"backbone.vision": True, **top} | ({"latent.policy": True} if method.sft == "joint" else {}),
    }
    if stage not in parts:
        raise ValueError(f"Unknown stage {stage!r}: expected one of {sorted([*STAGE_PARTS, *parts])}.")
    return parts[stage]


def stage_noise(batch: Any, key: Array, codes: int) -> Any:
    """Gumbel noise for a batch or for both halves of a mixed one."""
    if isinstance(batch, MixedBatch):
        one, two = jax.random.split(key)
        return gumbel(one, batch.paired, codes), None if batch.text is None else gumbel(two, batch.text, codes)
    return gumbel(key, batch, codes)


class Step:
    """(state, batch) -> (state, metrics), jitted for the mesh that the weights lie on; the state's buffers are donated.

    Batches may come from the host: they are placed by the table `TRAIN`.
    """

    def __init__(
        self, loss: Loss, frozen: Agent, optimiser: Optimiser, method: Method, noisy: bool, layout: Layout | None = None
    ):
        self.frozen, self.layout = frozen, layout
        dtype = frozen.backbone.config.dtype

        @functools.partial(jax.jit, donate_argnums=0, static_argnames=("mesh", "layout"))
        def step(state: TrainState, frozen: Agent, batch: Any, mesh: Mesh | None, layout: Layout):
            with use(mesh, TRAIN, layout):
                noise = stage_noise(batch, state.step_key(), frozen.latent.config.codes) if noisy else None

                def objective(trainable):
                    agent = merge(in_dtype(trainable, dtype, VOCABULARY_TABLES), frozen)
                    return loss(agent, batch, noise, method)

                (_, metrics), gradients = jax.value_and_grad(objective, has_aux=True)(state.trainable)
                gradients = constrain_weights(gradients, frozen.specs)
                state, applied = state.apply_gradients(gradients, optimiser)
                return state, metrics | applied

        @functools.partial(jax.jit, static_argnames=("mesh", "layout"))
        def held_out(trainable: Agent, frozen: Agent, batch: Any, mesh: Mesh | None, layout: Layout):
            with use(mesh, TRAIN, layout):
                return loss(merge(in_dtype(trainable, dtype, VOCABULARY_TABLES), frozen), batch, None, method)[1]

        self._step, self._held_out = step, held_out

    def __call__(self, state: TrainState, batch: Any) -> tuple[TrainState, dict[str, Array]]:
        """One step."""
        static = statics((state.trainable, self.frozen), self.layout)
        return self._step(state, self.frozen, place(batch, static["mesh"], TRAIN), **static)

    def held_out(self, trainable: Agent, batch: Any) -> dict[str, Array]:
        """The loss and its metrics without noise, on rows that are not trained on."""
        static = statics((trainable, self.frozen), self.layout)
        return self._held_out(trainable, self.frozen, place(batch, static["mesh"], TRAIN), **static)

    def trace(self, state: TrainState, batch: Any) -> jax.stages.Traced:
        """The step, traced for arguments that may be shape structs with shardings."""
        return self._step.trace(state, self.frozen, batch, **statics((state.trainable, self.frozen), self.layout))

    def lower(self, state: TrainState, batch: Any) -> jax.stages.Lowered:
        """The step, lowered for such arguments."""
        return self.trace(state, batch).lower()


def make_step(
    loss: Loss,
    frozen: Agent,
    optimiser: Optimiser,
    method: Method,
    noisy: bool = False,
    layout: Layout | None = None,
) -> Step:
    """A training step, see `Step`.

    Args:
        loss: what it optimises.
        frozen: the agent without its trainable part.
        optimiser: of the trainable part.
        method: switches.
        noisy: the loss takes Gumbel noise.
        layout: of the program; default: what suits the mesh.
    """
    return Step(loss, frozen, optimiser, method, noisy, layout)
