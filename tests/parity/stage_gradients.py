"""Every array of SET_grads_STAGE.npz: gradients of the stage losses with respect to what the stage trains."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from lam_jax.latent.agent import Agent
from lam_jax.train.method import METHODS, Method
from lam_jax.train.partition import merge, partition
from lam_jax.train.spaces import LATENT
from lam_jax.train.stages import (
    STAGES,
    MixedBatch,
    cloning_loss,
    inverse_loss,
    joint_loss,
    latent_sft_loss,
    projector_loss,
)
from tests.parity.case import Arrays, Case
from tests.parity.checks import Check
from tests.parity.generation import policy_step
from tests.parity.released import by_released_name

Objective = Callable[[Agent], jax.Array]


def gradients(stage: str, agent: Agent, case: Case, reference: Arrays) -> dict[str, Check] | None:
    """Checks by parameter name; None for a stage that we do not know."""
    method = official(case)
    objectives = {
        "InverseWarmUp": (STAGES["inverse"], _inverse),
        "CycleWarmUp": (STAGES["projector"], _projector),
        "InverseActionVLM": (STAGES["joint"], _joint),
        "PolicyActionVLM": (STAGES["cloning"], _cloning),
        "PolicyActionWorldVLM": (STAGES["sft_latent"], _sft),
        "VLMActionRL": (LATENT, _rl),
    }
    if stage not in objectives:
        return None
    trained, objective = objectives[stage]
    trainable, frozen = partition(agent, trained.trains(case.config, method))
    loss = objective(case, method)
    tree = jax.jit(jax.grad(lambda part, frozen: loss(merge(part, frozen))))(trainable, frozen)
    first_block = case.config.text.layers - method.trained_blocks(case.config.text.layers)
    arrays = by_released_name(tree, case, reference, first_block)
    return {name: Check(value, "gradient") for name, value in arrays.items()}


def official(case: Case) -> Method:
    """The preset, with the number of upper blocks that the set trains in stage 5."""
    layers, depth = case.settings["sft_trainable_layers"], case.config.text.layers
    if layers != list(range(depth - len(layers), depth)):
        raise ValueError(f"{case.name}: sft_trainable_layers is {layers}, expected the last of {depth} layers")
    return dataclasses.replace(METHODS["official"], sft_blocks=len(layers))


def _inverse(case: Case, method: Method) -> Objective:
    batch, noise = case.batch("mm"), jnp.asarray(case.arrays("outputs")["InverseWarmUp/gumbel_noise"])
    return lambda agent: inverse_loss(agent, batch, noise, method)[0]


def _projector(case: Case, method: Method) -> Objective:
    batch = case.batch("mm")
    return lambda agent: projector_loss(agent, batch, None, method)[0]


def _joint(case: Case, method: Method) -> Objective:
    batch, given = MixedBatch(case.batch("mm"), case.batch("txt")), case.arrays("outputs")
    noise = tuple(
        jnp.asarray(given[f"InverseActionVLM/gumbel_noise_{view}"]) for view in ("0_mm_textvision", "2_txt_textonly")
    )
    return lambda agent: joint_loss(agent, batch, noise, method)[0]


def _cloning(case: Case, method: Method) -> Objective:
    batch = MixedBatch(case.batch("mm"), case.batch("txt"))
    return lambda agent: cloning_loss(agent, batch, None, method)[0]


def _sft(case: Case, method: Method) -> Objective:
    batch = case.batch("mm")
    return lambda agent: latent_sft_loss(agent, batch, None, method)[0]


def _rl(case: Case, method: Method) -> Objective:
    given = case.arrays("generation")
    return lambda agent: policy_step(agent, case, method, given)["rl/dapo_loss"]
