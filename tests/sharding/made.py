"""A tiny agent made for sharding, its batches, and every step of the method on a mesh of choice.

Sizes are told apart in compiled programs: no other array has a dimension of V = 232, or of V over 2 or 4 shards.
N prompts, G samples of a prompt, P prompt length, T completion length.
"""

import dataclasses
import functools
from typing import Any

import jax
import numpy as np
import optax
from jax.sharding import Mesh

from lam_jax.latent.agent import Agent
from lam_jax.latent.config import LatentConfig
from lam_jax.nn.layout import Layout
from lam_jax.parallel import ROLLOUT, TRAIN, UPDATE, make_mesh, place, shardings, use
from lam_jax.parallel.choose_layout import choose_layout
from lam_jax.rl import ALGORITHMS
from lam_jax.rollout.actions import ActionSpace
from lam_jax.rollout.engine import Rollout, RolloutConfig
from lam_jax.rollout.run import fill_prompts, jitted, prepared
from lam_jax.rollout.sampling import HybridSampling, SamplingConfig
from lam_jax.train.method import METHODS
from lam_jax.train.optimiser import Optimiser, OptimiserConfig, make_optimiser
from lam_jax.train.partition import partition
from lam_jax.train.rl_batch import RLBatch
from lam_jax.train.rl_config import RLConfig
from lam_jax.train.rl_update import Update
from lam_jax.train.spaces import SPACES
from lam_jax.train.stages import SFT_LEARN, MixedBatch, Step
from lam_jax.train.stages import STAGES as DEFAULT_STAGES
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
STAGES = {**DEFAULT_STAGES, SFT_LEARN.name: SFT_LEARN}
N, G, P, T = 6, 2, 12, 5
LENGTH = 14
SAMPLING = {
    "latent": SamplingConfig(temperature=0.8, top_k=4),
    "hybrid": HybridSampling(temperature=0.8, top_k=4, repetition_penalty=1.3),
    "token": SamplingConfig(temperature=0.9),
    "token_top_k": SamplingConfig(top_k=7, repetition_penalty=1.3),
}
# What is run by default; `make sharding` runs everything on every mesh.
IN_BRIEF = ("joint", "sft_latent", "rl_latent", "rl_hybrid", "rl_token")


def words(count: int, seed: int) -> tuple[int, ...]:
    return tuple(int(x) for x in np.random.default_rng(seed).integers(tiny.FIRST_WORD, VOCAB, count))


PICTURES = (((1, 4, 4),), ((1, 2, 2),), (), ((1, 2, 4),))
PAIRED = make_batch([Row(words(4 + i % 5, i), PICTURES[i % 4], 2 + i % 3, seed=i) for i in range(8)], LENGTH)
TEXT = make_batch([Row(words(5 + i, 20 + i), response=3) for i in range(8)], LENGTH)
PROMPTS = make_batch([Row(words(3 + i % 4, 40 + i), PICTURES[i % 4], seed=i) for i in range(N)], P, left=True)
MIXED = MixedBatch(PAIRED, TEXT)


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


def batch_of(stage: str) -> Any:
    """On the host."""
    return jax.tree.map(np.asarray, MIXED if STAGES[stage].mixed else PAIRED)


def scanned(mesh: Mesh) -> Layout:
    """As of large models, whose layers are scanned."""
    return dataclasses.replace(choose_layout(mesh), unrolled=0)


def stage_step(stage: str, mesh: Mesh) -> tuple[Step, TrainState, Any]:
    """(step, first state, batch on the host)."""
    made, batch = STAGES[stage], batch_of(stage)
    trainable, frozen = partition(agent(mesh), made.trains(CONFIG, METHOD))
    state = TrainState.create(trainable, optimiser(), jax.random.key(0))
    return Step(made, frozen, optimiser(), METHOD, scanned(mesh)), state, batch


def rollout_config(space: str, sampling: SamplingConfig | None = None) -> RolloutConfig:
    return RolloutConfig(samples=G, length=T, sampling=sampling or SAMPLING[space], segment=T, stop=False)


def space_on(name: str, mesh: Mesh) -> ActionSpace:
    return prepared(SPACES[name.split("_")[0]].actions(agent(mesh), METHOD))


def rollout_arguments(name: str, mesh: Mesh) -> tuple[ActionSpace, Any, np.ndarray, jax.Array, RolloutConfig]:
    space = space_on(name, mesh)
    prompts = fill_prompts(jax.tree.map(np.asarray, PROMPTS), space)
    ids = np.arange(len(prompts.tokens) * G, dtype=np.int32).reshape(-1, G)
    prompts, ids = place(prompts, mesh, ROLLOUT), place(ids, mesh, ROLLOUT, "prompts", "samples")
    return space, prompts, ids, jax.random.key(3), rollout_config(name)


def rl_update(name: str, mesh: Mesh, rollout: Rollout) -> tuple[Update, TrainState, RLBatch]:
    """(update, state, batch); rewards are made up."""
    algorithm = dataclasses.replace(ALGORITHMS["grpo"], beta=0.1)
    config = RLConfig(algorithm, SPACES[name], prompts=N, rollout=rollout_config(name), epochs=2)
    trainable, frozen = partition(agent(mesh), config.space.trains(CONFIG, METHOD))
    state = TrainState.create(trainable, optimiser(), jax.random.key(0))
    advantages = np.zeros((rollout.tokens.shape[0], G), np.float32)
    advantages[:N] = np.random.default_rng(7).normal(size=(N, G))
    prompts = place(rollout_arguments(name, mesh)[1], mesh, UPDATE)
    advantages = place(advantages, mesh, UPDATE, "prompts", "samples")
    # Another policy than the reference, so that the KL counts.
    reference = jax.tree.map(lambda x: x * 1.05, trainable)
    update = Update(config, METHOD, optimiser(), frozen, reference, scanned(mesh))
    return update, state, RLBatch(prompts, rollout, advantages, rollout.mask)


@dataclasses.dataclass(frozen=True)
class Ran:
    """A compiled step after one execution: its outputs and its text."""

    outputs: Any
    text: str


@functools.cache
def ran(name: str, mesh_name: str) -> Ran:
    """A step by name: a stage, or "rollout" or "rl" with a space, e.g. "rl_token". Compiled once, run once."""
    mesh = on(mesh_name)
    if name in STAGES:
        step, state, batch = stage_step(name, mesh)
        return execute(step.lower(state, place(batch, mesh, TRAIN)), state, step.frozen, place(batch, mesh, TRAIN))
    kind, space = name.split("_", 1)
    if kind == "rollout":
        *arguments, config = rollout_arguments(space, mesh)
        return execute(jitted.lower(*arguments, config=config, mesh=mesh, layout=scanned(mesh)), *arguments)
    update, state, batch = rl_update(space, mesh, recorded(space, mesh))
    return execute(update.lower(state, batch), state, update.frozen, update.reference, batch)


def execute(lowered: jax.stages.Lowered, *arguments: Any) -> Ran:
    compiled = lowered.compile()
    return Ran(compiled(*arguments), compiled.as_text())


def recorded(space: str, mesh: Mesh) -> Rollout:
    """The rollout made on one device, as if it had been made on `mesh`: updates then differ by the mesh alone."""
    rollout = jax.device_get(ran(f"rollout_{space}", "one").outputs)
    filling = -N % mesh.shape["data"]
    rollout = jax.tree.map(lambda x: np.concatenate([x, np.zeros((filling, *x.shape[1:]), x.dtype)]), rollout)
    prompt_hidden = place(rollout.prompt_hidden, mesh, UPDATE, "prompts")
    return place(rollout, mesh, UPDATE, "prompts", "samples").replace(prompt_hidden=prompt_hidden)


def forced_logps(space: str, mesh_name: str) -> np.ndarray:
    """Log-probabilities of the tokens that were sampled on one device, computed on another mesh."""
    mesh = on(mesh_name)
    *_, batch = rl_update(space, mesh, recorded(space, mesh))

    @jax.jit
    def compute(agent, batch):
        with use(mesh, UPDATE, choose_layout(mesh)):
            return SPACES[space].logps(agent, METHOD, batch.prompts, batch.rollout, SAMPLING[space], False)[0]

    return jax.device_get(compute(agent(mesh), batch))


def adam(state: TrainState) -> optax.ScaleByAdamState:
    """The first moment after one step is a tenth of the (clipped) gradient."""
    (found,) = [s for s in jax.tree.leaves(state.optimiser_state, is_leaf=is_adam) if is_adam(s)]
    return found


def is_adam(node: Any) -> bool:
    return isinstance(node, optax.ScaleByAdamState)
