"""The library's programs as things to be timed: called without arguments, they return device arrays.

N prompts, G samples of a prompt, T completion length.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.workload import METHOD, Workload, endless_prompts, make_batch, prompts, rl_config, sample_ids, spaces
from lam_jax.latent.agent import Agent
from lam_jax.models.inputs import Batch
from lam_jax.nn.layout import Layout
from lam_jax.nn.stored import Storage
from lam_jax.parallel import ROLLOUT, mesh_of, use
from lam_jax.parallel.choose_layout import choose_layout
from lam_jax.parallel.parked import discard, is_used_up
from lam_jax.rewards.verdict import Verdict
from lam_jax.rollout.actions import ActionSpace
from lam_jax.rollout.engine import Rollout, RolloutConfig
from lam_jax.rollout.run import run_rollout
from lam_jax.train.optimiser import OptimiserConfig, make_optimiser
from lam_jax.train.partition import Choice, Last, count_parameters, partition
from lam_jax.train.rl import RLStep
from lam_jax.train.rl_batch import RLBatch
from lam_jax.train.rl_collect import Collector
from lam_jax.train.rl_held import hold_frozen, hold_reference
from lam_jax.train.rl_rewards import Decoder
from lam_jax.train.rl_update import Update
from lam_jax.train.spaces import LATENT, SPACES, TOKEN, Space
from lam_jax.train.stages import MixedBatch, Stage, Step
from lam_jax.train.state import TrainState

UpdateKind = Literal["latent", "token", "token_matched"]
UPDATES: tuple[UpdateKind, ...] = ("latent", "token", "token_matched")


class RolloutProgram:
    """A rollout of fixed prompts, another key each time."""

    def __init__(self, space: ActionSpace, batch: Batch, config: RolloutConfig):
        self.space, self.batch, self.config = space, batch, config
        self.ids = sample_ids(batch.tokens.shape[0], config.samples)
        self.key = jax.random.key(0)

    def __call__(self) -> Rollout:
        self.key = jax.random.split(self.key, 2)[0]
        return run_rollout(self.space, self.batch, self.ids, self.key, self.config)


def rollout_programs(agent: Agent, work: Workload, held: Sequence[Storage] = ()) -> dict[str, RolloutProgram]:
    """Rollouts of forced length by action space, and by "space_storage" where the backbone can be held so."""
    batch, found = prompts(work), {}
    for name, space in spaces(agent).items():
        config = rl_config(work, name).rollout
        found[name] = RolloutProgram(space, batch, config)
        for weights in held if SPACES[name].frozen_backbone else ():
            found[f"{name}_{weights}"] = RolloutProgram(space, batch, dataclasses.replace(config, weights=weights))
    return found


@functools.partial(jax.jit, static_argnames="layout")
def _prefill(space: ActionSpace, batch: Batch, layout: Layout) -> Any:
    with use(None, ROLLOUT, layout):
        hidden, kv = space.backbone.prefill(batch)
        logits, state = space.begin(hidden, batch, 1, 1)
    return hidden, kv, logits, state


class PrefillProgram:
    """What a rollout does before its first token."""

    def __init__(self, space: ActionSpace, batch: Batch):
        self.space, self.batch = space, batch

    def __call__(self) -> Any:
        return _prefill(self.space, self.batch, choose_layout(None))


def update_parts(work: Workload, kind: UpdateKind) -> tuple[Space, dict[str, Choice]]:
    """Action space and what trains: the released recipes, and a token update with the policy's number of blocks."""
    if kind == "latent":
        return LATENT, dict(LATENT.trains(work.config, METHOD))
    if kind == "token":
        return TOKEN, dict(TOKEN.trains(work.config, METHOD))
    return TOKEN, {"backbone.blocks": Last(work.latent.policy_layers), "backbone.norm": True}


class UpdateProgram:
    """A policy update on one recorded rollout with made-up advantages; the state moves on."""

    def __init__(self, agent: Agent, work: Workload, kind: UpdateKind):
        space, parts = update_parts(work, kind)
        config = rl_config(work, space.name)
        batch = prompts(work)
        out = RolloutProgram(space.actions(agent, METHOD), batch, config.rollout)()
        advantages = np.random.default_rng(0).standard_normal((work.prompts, work.samples)).astype(np.float32)
        self.recorded = RLBatch(batch, out, jnp.asarray(advantages), out.mask)
        trainable, frozen = partition(agent, parts)
        self.parameters = count_parameters(trainable)
        optimiser = make_optimiser(config.optimiser, config.steps)
        self.state = TrainState.create(trainable, optimiser, jax.random.key(0))
        self.update = Update(config, METHOD, optimiser, frozen, trainable)

    def __call__(self) -> dict[str, jax.Array]:
        self.state, metrics = self.update(self.state, self.recorded)
        return metrics

    def lower(self) -> Any:
        """The lowered program."""
        return self.update.lower(self.state, self.recorded)


class Words:
    """A tokenizer for random weights: token numbers as words."""

    def batch_decode(self, group: Any, skip_special_tokens: bool) -> list[str]:
        """One string a row."""
        return [" ".join(map(str, row)) for row in group]


class StepProgram:
    """A whole RL step, reward and host work included: rollout of new prompts, reward, update; the state moves on.

    Args:
        halves: what trains and what is frozen, see `rl_parts`.
        work: sizes.
        space: "latent" or "token".
        stop: completions end at the end-of-turn token.
        own: nobody else has the halves, so that their memory is taken as a run does.
    """

    def __init__(self, halves: tuple[Agent, Agent], work: Workload, space: str, stop: bool = False, own: bool = False):
        trainable, frozen = halves
        self.config = config = rl_config(work, space, stop)
        self.parameters = count_parameters(trainable)
        optimiser = make_optimiser(config.optimiser, config.steps)
        self.state = TrainState.create(trainable, optimiser, jax.random.key(0))
        rng = np.random.default_rng(0)

        def reward(examples, answers, samples):
            return [[Verdict({"reward": (rng.random(), 1.0)}) for _ in samples] for _ in answers]

        reference = hold_reference(trainable, config.algorithm)
        layout = choose_layout(mesh_of(frozen))
        held = hold_frozen(frozen, config.space, layout, (lambda leaf: leaf.delete()) if own else None)
        if own and is_used_up(trainable, work.config.dtype):
            discard(trainable)
        self.collect = Collector(config, METHOD, held.rollouts, reward, Decoder(Words()), iter(()))
        self.step = RLStep(self.collect, Update(config, METHOD, optimiser, held.updates, reference))
        self.batches = endless_prompts(work)

    def __call__(self) -> dict[str, Any]:
        self.state, metrics = self.step(self.state, next(self.batches))
        return metrics


def rl_parts(work: Workload, space: str) -> dict[str, Choice]:
    """What RL trains, for `partition`."""
    return dict(SPACES[space].trains(work.config, METHOD))


class StageProgram:
    """An optimiser step of one of stages 1 to 5 on one batch; the state moves on.

    Args:
        halves: what trains and what is frozen, see `stage_parts`.
        work: sizes.
        stage: which one.
    """

    def __init__(self, halves: tuple[Agent, Agent], work: Workload, stage: Stage):
        trainable, frozen = halves
        optimiser = make_optimiser(OptimiserConfig(lr=1e-4), 1000)
        self.state = TrainState.create(trainable, optimiser, jax.random.key(0))
        self.step = Step(stage, frozen, optimiser, dataclasses.replace(METHOD, remat=work.remat))
        paired = make_batch(work, work.rows, work.prompt)
        self.batch: Any = paired
        if stage.mixed:
            self.batch = MixedBatch(paired, make_batch(work, work.rows, work.prompt, pictures=False, seed=1))

    def __call__(self) -> dict[str, jax.Array]:
        self.state, metrics = self.step(self.state, self.batch)
        return metrics

    def lower(self) -> jax.stages.Lowered:
        """The lowered program."""
        return self.step.lower(self.state, self.batch)


def stage_parts(work: Workload, stage: Stage) -> dict[str, Choice]:
    """What a stage trains, for `partition`."""
    return dict(stage.trains(work.config, METHOD))


def with_natural_ends(agent: Agent, work: Workload, space: str) -> Agent:
    """The agent with its end-of-turn row so much longer that random weights end after about half the longest length.

    Random weights hardly ever end a turn by themselves. The scale is the one, of a few, whose mean length is nearest.
    """
    backbone, batch = agent.backbone, prompts(work)
    config = rl_config(work, space, stop=True).rollout
    best, distance = agent, np.inf
    for scale in np.geomspace(2, 32, 9):
        factor = jnp.ones((backbone.table.shape[0], 1)).at[backbone.config.eos_id].set(float(scale))
        name = "embedding" if backbone.lm_head is None else "lm_head"
        moved = agent.replace(backbone=backbone.replace(**{name: backbone.table * factor}))
        lengths = RolloutProgram(spaces(moved)[space], batch, config)().lengths
        away = abs(float(jnp.mean(lengths)) - work.completion / 2)
        if away < distance:
            best, distance = moved, away
    return best
