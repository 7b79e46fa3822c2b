"""From a stage's loss to a jitted training step."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
from jaxtyping import Array

from lam_jax.qwen.config import QwenConfig
from lam_jax.rollout.agent import Agent
from lam_jax.train.method import Method
from lam_jax.train.optimiser import Optimiser
from lam_jax.train.partition import Choice, Last, in_dtype, merge
from lam_jax.train.stages import cloning, inverse, joint, projector
from lam_jax.train.stages.explain import gumbel
from lam_jax.train.stages.joint import MixedBatch
from lam_jax.train.state import TrainState

Loss = Callable[[Agent, Any, Any, Method], tuple[Array, dict[str, Array]]]
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


def make_step(
    loss: Loss, frozen: Agent, optimiser: Optimiser, method: Method, noisy: bool = False
) -> Callable[[TrainState, Any], tuple[TrainState, dict[str, Array]]]:
    """A jitted (state, batch) -> (state, metrics). The state's buffers are donated."""
    step = jit_step(loss, optimiser, method, noisy)
    return lambda state, batch: step(state, frozen, batch)


def jit_step(loss: Loss, optimiser: Optimiser, method: Method, noisy: bool = False) -> Any:
    """The jitted (state, frozen, batch) -> (state, metrics) behind `make_step`, which can also be compiled ahead."""

    @functools.partial(jax.jit, donate_argnums=0)
    def step(state: TrainState, frozen: Agent, batch: Any):
        noise = stage_noise(batch, state.step_key(), frozen.latent.config.codes) if noisy else None

        def objective(trainable):
            agent = merge(in_dtype(trainable, frozen.backbone.config.dtype), frozen)
            return loss(agent, batch, noise, method)

        (_, metrics), gradients = jax.value_and_grad(objective, has_aux=True)(state.trainable)
        state, applied = state.apply_gradients(gradients, optimiser)
        return state, metrics | applied

    return step
