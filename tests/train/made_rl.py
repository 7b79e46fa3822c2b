"""Stage 6 on a tiny agent: settings, prompts, rewards, steps, and batches written by hand.

What the tests of stage 6 make and look into is made and looked into here.
N prompts, G samples of a prompt, T completion length, S support slots.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lam_jax.data.collator import Collated, Cuts
from lam_jax.data.schemas import Example
from lam_jax.latent.agent import Agent
from lam_jax.models.inputs import Batch
from lam_jax.rl import ALGORITHMS
from lam_jax.rollout.engine import Rollout, RolloutConfig
from lam_jax.rollout.sampling import HybridSampling, SamplingConfig, Support
from lam_jax.train.method import METHODS, Method
from lam_jax.train.optimiser import OptimiserConfig, make_optimiser
from lam_jax.train.partition import merge, partition
from lam_jax.train.rl import RLStep
from lam_jax.train.rl_batch import RLBatch
from lam_jax.train.rl_collect import Collector
from lam_jax.train.rl_config import RLConfig
from lam_jax.train.rl_rewards import Decoder
from lam_jax.train.rl_update import Update
from lam_jax.train.spaces import SPACES
from lam_jax.train.state import TrainState
from tests import tiny
from tests.made_reward import as_reward
from tests.tiny import Row, make_batch, words
from tests.train import plain_rl

N, G, T = 2, 16, 5
METHOD = METHODS["default"]
EXAMPLE = Example("row", ({"role": "user", "content": "Say it."}, {"role": "assistant", "content": "It."}))


class Numbers:
    """A tokenizer whose words are the token numbers."""

    def batch_decode(self, group, skip_special_tokens):
        """Special tokens are left out."""
        assert skip_special_tokens
        return [" ".join(str(int(token)) for token in row if token >= tiny.FIRST_WORD) for row in group]


def even_tokens(answers: Sequence[Sequence[str]]) -> np.ndarray:
    """Share of even tokens of each answer [N, G]."""
    return np.array([[np.mean([int(w) % 2 == 0 for w in text.split()] or [0]) for text in group] for group in answers])


@as_reward
def share_of_even_tokens(examples, answers):
    """Easy to raise in both spaces; never fails."""
    return even_tokens(answers)


def prompts(seed: int) -> Collated:
    """One prompt with an image and one without."""
    return collated([Row(words(4, seed), ((1, 2, 2),), seed=seed), Row(words(6, seed + 1))])


def collated(rows: Sequence[Row]) -> Collated:
    """Prompts of length 8."""
    return Collated(make_batch(rows, 8, left=True), (EXAMPLE,) * len(rows), Cuts())


def config(space: Any, name: str = "grpo", **changes: Any) -> RLConfig:
    """Settings; `changes` are the algorithm's."""
    sampling = {"latent": SamplingConfig(top_k=6), "hybrid": HybridSampling(top_k=6)}.get(space, SamplingConfig())
    rollout = RolloutConfig(samples=G, length=T, sampling=sampling, segment=T, stop=False)
    algorithm = dataclasses.replace(ALGORITHMS[name], **changes)
    return RLConfig(algorithm, SPACES[space], prompts=N, rollout=rollout, optimiser=OptimiserConfig(lr=1e-2))


def make(
    space: Any, reward: Any = share_of_even_tokens, refill: Any = (), name: str = "grpo", agent: Any = None, **changes
) -> tuple[RLStep, Callable[[], TrainState]]:
    """(step, state)"""
    return make_with(config(space, name, **changes), reward, refill, agent)


def make_with(
    settings: RLConfig,
    reward: Any = share_of_even_tokens,
    refill: Any = (),
    agent: Agent | None = None,
    method: Method = METHOD,
    ahead: Any = None,
) -> tuple[RLStep, Callable[[], TrainState]]:
    """(step, state) for any settings."""
    trainable, frozen = partition(agent or tiny.agent(), settings.space.trains(tiny.CONFIG, method))
    optimiser = make_optimiser(settings.optimiser, settings.steps)
    collector = Collector(settings, method, frozen, reward, Decoder(Numbers()), iter(refill), ahead=ahead)
    step = RLStep(collector, Update(settings, method, optimiser, frozen, trainable))
    return step, functools.partial(TrainState.create, trainable, optimiser, jax.random.key(0))


def moved_state(step: RLStep, create: Callable[[], TrainState], seed: int = 0) -> TrainState:
    """A state some way from the reference, so that neither ratios nor the KL are those of the start."""
    state, rng = create(), np.random.default_rng(seed)

    def move(x: jax.Array) -> jax.Array:
        return x + jnp.asarray(rng.normal(0, 0.02, x.shape).astype(np.float32))

    return state.replace(trainable=jax.tree.map(move, state.trainable))


def agent_of(step: RLStep, state: TrainState | None = None) -> Agent:
    """The whole agent of a state; None: the reference."""
    return merge(step.update.reference if state is None else state.trainable, step.update.frozen)


def collect(step: RLStep, state: TrainState, drawn: Collated) -> tuple[RLBatch, dict[str, Any]]:
    """A rewarded rollout and its metrics."""
    return step.prepare(state, drawn)


def apply(step: RLStep, state: TrainState, batch: RLBatch, index: int = 0) -> tuple[TrainState, dict[str, Any]]:
    """Update `index` of a rollout. The state's buffers are donated."""
    return step.apply(state, batch, index)


def without_updating(step: RLStep) -> list[RLBatch]:
    """Updates do nothing from now on; their batches come into the list."""
    seen: list[RLBatch] = []

    def update(state, batch):
        seen.append(batch)
        return state, {}

    step.update = update  # pyright: ignore[reportAttributeAccessIssue]
    return seen


def gradient(step: RLStep, state: TrainState) -> dict[str, np.ndarray]:
    """The gradient of the only update so far, by weight: Adam's first moment is (1 - b1) of it, if nothing clips."""
    (moment,) = [s.mu for s in jax.tree.leaves(state.optimiser_state, is_leaf=_has_moment) if _has_moment(s)]
    return named(jax.tree.map(lambda x: x / (1 - step.config.optimiser.b1), moment))


def _has_moment(node: Any) -> bool:
    return hasattr(node, "mu")


def named(tree: Any) -> dict[str, np.ndarray]:
    """Arrays of a tree by path."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="."): np.asarray(leaf) for path, leaf in leaves}


class Actions(NamedTuple):
    """A rollout as simple arrays [N, G, T], the set of each draw [N, G, T, S] (None: all actions)."""

    tokens: np.ndarray
    actions: np.ndarray
    mask: np.ndarray
    indices: np.ndarray | None = None
    kept: np.ndarray | None = None


def actions_of(batch: RLBatch) -> tuple[Actions, np.ndarray]:
    """A rollout's arrays and recorded log-probabilities."""
    out = batch.rollout
    tokens, actions, mask = (np.asarray(x) for x in (out.tokens, out.actions, out.mask))
    sets = () if out.support is None else (np.asarray(out.support.indices), np.asarray(out.support.kept))
    return Actions(tokens, actions, mask, *sets), np.asarray(out.logps)


_hidden = jax.jit(plain_rl.hidden)


def batch_of(
    agent: Agent, prompts: Batch, taken: Actions, recorded: np.ndarray, advantages: np.ndarray, active: np.ndarray
) -> RLBatch:
    """A batch for the update, of a rollout that is written down: `recorded` log-probabilities [N, G, T], advantages and
    `active` [N, G]."""
    length = prompts.tokens.shape[1]
    hidden = _hidden(agent.backbone, prompts, taken.tokens, taken.mask)
    nothing = jnp.zeros(taken.tokens.shape, jnp.float32)
    out = Rollout(
        tokens=jnp.asarray(taken.tokens),
        actions=jnp.asarray(taken.actions),
        mask=jnp.asarray(taken.mask),
        logps=jnp.asarray(recorded, jnp.float32),
        logp_gap=nothing,
        entropy=nothing,
        support=None if taken.indices is None else Support(jnp.asarray(taken.indices), jnp.asarray(taken.kept)),
        prompt_hidden=hidden[:, 0, :length],
        hidden=hidden[:, :, length:],
    )
    return RLBatch(prompts, out, jnp.asarray(advantages, jnp.float32), out.mask & jnp.asarray(active)[..., None])


def filled(batch: RLBatch, prompts: Batch) -> RLBatch:
    """The batch with the further prompts of `prompts`, which are padding: nothing of them counts."""
    missing = len(prompts.tokens) - len(batch.prompts.tokens)

    def fill(x: jax.Array) -> jax.Array:
        return jnp.pad(x, ((0, missing), *((0, 0),) * (x.ndim - 1)))

    rest = (batch.rollout, batch.advantages, batch.mask)
    return RLBatch(prompts, *jax.tree.map(fill, rest))
