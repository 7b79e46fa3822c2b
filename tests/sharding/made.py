"""A tiny agent made for sharding, its batches, and every step of the method on a mesh of choice.

Sizes are told apart in compiled programs: no other array has a dimension of V = 232, or of V over 2 or 4 shards.
N prompts, G samples of a prompt, P prompt length, T completion length.
"""

import dataclasses
import functools
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from lam_jax.latent.config import LatentConfig
from lam_jax.parallel import TRAIN, make_mesh, place, shardings
from lam_jax.rl import ALGORITHMS
from lam_jax.rollout.actions import ActionSpace
from lam_jax.rollout.agent import Agent
from lam_jax.rollout.engine import Rollout, RolloutConfig
from lam_jax.rollout.run import fill_prompts, jitted, prepared, run_rollout
from lam_jax.rollout.sampling import SamplingConfig
from lam_jax.train.method import METHODS
from lam_jax.train.optimiser import Optimiser, OptimiserConfig, make_optimiser
from lam_jax.train.partition import merge, partition
from lam_jax.train.rl import RLConfig, Taken, Update, action_space, make_update
from lam_jax.train.stages import (
    MixedBatch,
    cloning_loss,
    inverse_loss,
    joint_loss,
    latent_sft_loss,
    make_step,
    projector_loss,
    token_sft_loss,
    trainable_parts,
)
from lam_jax.train.stages.step import Step
from lam_jax.train.state import TrainState
from tests import tiny
from tests.tiny import Row, make_batch

MESHES = {"one": (1, 1, 1), "data": (8, 1, 1), "all": (2, 2, 2), "tensor": (1, 2, 4)}
VOCAB = 232
# On 4 tensor shards: one head each, half a kv head, no whole vision head, an odd vision feed-forward size.
CONFIG = dataclasses.replace(
    tiny.CONFIG,
    text=dataclasses.replace(tiny.CONFIG.text, vocab_size=VOCAB, hidden=80),
    vision=dataclasses.replace(tiny.CONFIG.vision, hidden=26),
)
LATENT = LatentConfig(codes=9, inverse_layers=1, policy_layers=1, merge_layers=2)
METHOD = METHODS["default"]
N, G, P, T = 6, 2, 12, 5
LENGTH = 14
SAMPLING = {"latent": SamplingConfig(temperature=0.8, top_k=4), "token": SamplingConfig(top_k=7)}


def words(count: int, seed: int) -> tuple[int, ...]:
    return tuple(int(x) for x in np.random.default_rng(seed).integers(tiny.FIRST_WORD, VOCAB, count))


PICTURES = (((1, 4, 4),), ((1, 2, 2),), (), ((1, 2, 4),))
PAIRED = make_batch([Row(words(4 + i % 5, i), PICTURES[i % 4], 2 + i % 3, seed=i) for i in range(8)], LENGTH)
TEXT = make_batch([Row(words(5 + i, 20 + i), response=3) for i in range(8)], LENGTH)
PROMPTS = make_batch([Row(words(3 + i % 4, 40 + i), PICTURES[i % 4], seed=i) for i in range(N)], P, left=True)
STAGES: dict[str, Any] = {
    "inverse": (inverse_loss, PAIRED, True),
    "projector": (projector_loss, PAIRED, False),
    "joint": (joint_loss, MixedBatch(PAIRED, TEXT), True),
    "cloning": (cloning_loss, MixedBatch(PAIRED, TEXT), False),
    "sft_latent": (latent_sft_loss, PAIRED, False),
    "sft_token": (token_sft_loss, PAIRED, False),
}


@functools.cache
def drawn() -> Agent:
    return jax.tree.map(np.asarray, tiny.draw_agent(CONFIG, LATENT))


@functools.cache
def agent(mesh: Mesh) -> Agent:
    """The same weights on any mesh, placed for training."""
    return jax.device_put(drawn(), shardings(Agent.spec(CONFIG, LATENT), mesh, TRAIN))


def on(name: str) -> Mesh:
    return make_mesh(MESHES[name])


def optimiser() -> Optimiser:
    return make_optimiser(OptimiserConfig(lr=1e-3), 10)


def stage_step(stage: str, mesh: Mesh) -> tuple[Step, TrainState, Any]:
    """(step, first state, batch on the host)."""
    loss, batch, noisy = STAGES[stage]
    trainable, frozen = partition(agent(mesh), trainable_parts(stage, CONFIG, METHOD))
    state = TrainState.create(trainable, optimiser(), jax.random.key(0))
    return make_step(loss, frozen, optimiser(), METHOD, noisy), state, jax.tree.map(np.asarray, batch)


def rollout_config(space: str) -> RolloutConfig:
    return RolloutConfig(samples=G, length=T, sampling=SAMPLING[space], segment=T, stop=False)


def space_on(name: str, mesh: Mesh) -> ActionSpace:
    return prepared(action_space(agent(mesh), name, METHOD))


def rollout_arguments(name: str, mesh: Mesh) -> tuple[ActionSpace, Any, np.ndarray, jax.Array, RolloutConfig]:
    space = space_on(name, mesh)
    prompts = fill_prompts(jax.tree.map(np.asarray, PROMPTS), space)
    ids = np.arange(len(prompts.tokens) * G, dtype=np.int32).reshape(-1, G)
    return space, prompts, ids, jax.random.key(3), rollout_config(name)


def roll_out(name: str, mesh: Mesh) -> Rollout:
    return run_rollout(*rollout_arguments(name, mesh))


def rl_update(name: str, mesh: Mesh, taken: Rollout) -> tuple[Update, TrainState, Agent, Agent, Taken]:
    """(update, state, frozen, reference, taken); rewards are made up."""
    algorithm = dataclasses.replace(ALGORITHMS["grpo"], beta=0.1)
    config = RLConfig(algorithm, name, prompts=N, rollout=rollout_config(name), epochs=2)
    trainable, frozen = partition(agent(mesh), trainable_parts(f"rl_{name}", CONFIG, METHOD))
    state = TrainState.create(trainable, optimiser(), jax.random.key(0))
    rows = taken.tokens.shape[0]
    advantages = np.zeros((rows, G), np.float32)
    advantages[:N] = np.random.default_rng(7).normal(size=(N, G))
    prompts = fill_prompts(jax.tree.map(np.asarray, PROMPTS), action_space(agent(mesh), name, METHOD))
    # Another policy than the reference, so that the KL counts.
    reference = jax.tree.map(lambda x: x * 1.05, trainable)
    return (
        make_update(config, METHOD, optimiser()),
        state,
        frozen,
        reference,
        Taken(prompts, taken, advantages, taken.mask),
    )


def lowered(name: str, mesh: Mesh) -> jax.stages.Lowered:
    """A step by name: a stage, "rollout_latent", "rl_token" and so on."""
    if name in STAGES:
        step, state, batch = stage_step(name, mesh)
        return step.lower(state, place(batch, mesh, TRAIN))
    kind, space = name.split("_")
    if kind == "rollout":
        space, prompts, ids, key, config = rollout_arguments(space, mesh)
        return jitted.lower(space, prompts, ids, key, config=config, mesh=mesh)
    update, *arguments = rl_update(space, mesh, roll_out(space, mesh))
    return update.lower(*arguments)


__all__ = ["MESHES", "STAGES", "merge"]
