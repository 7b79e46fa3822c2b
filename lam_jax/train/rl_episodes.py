"""Stage 6 of games: every answer of a game gets its return (docs/environments.md).

A batch has a row for each turn of each game, and the loss takes the turns of a game as one sequence: what an algorithm
says of a completion holds of all answers of a game together. User turns and pictures are prompts, which no loss is of.

Legend: N prompts, G samples of a prompt, K most turns of a game.
"""

import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool

from lam_jax.data.collator import Collated
from lam_jax.data.schemas import Example
from lam_jax.environments.environment import Environment
from lam_jax.environments.play import begun
from lam_jax.latent.agent import Agent
from lam_jax.models.inputs import Batch
from lam_jax.nn.layout import Layout
from lam_jax.parallel import UPDATE, place, replicate
from lam_jax.parallel.multihost import to_host
from lam_jax.rewards.reward import Reward
from lam_jax.rl import ends_well
from lam_jax.rollout.actions import ActionSpace
from lam_jax.rollout.engine import Rollout, RolloutConfig, rollout
from lam_jax.rollout.episodes import Episodes, in_a_row, play, stacked
from lam_jax.train.method import Method
from lam_jax.train.rl_batch import RLBatch, with_advantages
from lam_jax.train.rl_collect import Attempt, Collector, Metrics, Observe, refilled
from lam_jax.train.rl_config import RLConfig
from lam_jax.train.rl_rewards import Decode, Scores, advantages_of
from lam_jax.train.state import TrainState


class EpisodeCollector(Collector):
    """collect(state, prompts) -> (batch, metrics): plays G games of each prompt; DAPO refills groups without a signal.

    Args:
        config: settings; its `turns` is the environment's.
        method: switches.
        frozen: the agent without its trainable part.
        environment: what is played.
        reward: not asked for anything; the environment rewards.
        decode: tokens to text.
        refill: where dynamic sampling draws further prompts from.
        collate: makes prompts of conversations, of one length and with room for the pictures of a whole game.
        layout: of the rollouts; default: what suits the mesh.
        observe: is shown the games, their answers one behind the other.
        mesh: as of `Collector`.

    Raises:
        ValueError: `config.turns` is not the environment's.
    """

    def __init__(
        self,
        config: RLConfig,
        method: Method,
        frozen: Agent,
        environment: Environment,
        reward: Reward,
        decode: Decode,
        refill: Iterator[Collated],
        collate: Callable[[Sequence[Example], int], Collated],
        layout: Layout | None = None,
        observe: Observe | None = None,
        mesh: Mesh | None = None,
    ):
        super().__init__(config, method, frozen, reward, decode, refill, layout, observe, mesh=mesh)
        if config.turns != environment.turns:
            raise ValueError(
                f"EpisodeCollector: RLConfig.turns is {config.turns}, expected the environment's {environment.turns}."
            )
        self.environment, self.collate = environment, collate

    def __call__(self, state: TrainState, prompts: Collated) -> tuple[RLBatch, Metrics]:
        """A batch of all turns of the prompts' games, with the state's key of this step.

        Raises:
            RewardError: the environment gave something else than a step.
        """
        key, algorithm = state.step_key(), self.config.algorithm
        space = self.actions(state)
        step = int(state.step) // self.config.updates + 1

        def attempt(drawn: Collated, number: int) -> tuple[RLBatch, Metrics]:
            return self._attempt(space, drawn, key, step, number)

        batch, metrics = attempt(prompts, 0)
        most = 0 if algorithm.dynamic_sampling_std is None else algorithm.max_refills
        return refilled(batch, metrics, lambda n: attempt(next(self.refill), n), most, self.mesh, self.config.rows)

    def like(self, state: TrainState, prompts: Collated) -> RLBatch:
        """Shape structs of the batch that prompts of this shape give."""
        games, turns = self._games(len(prompts.examples)), self.config.turns
        one = self.collate([begun(prompts.examples[0])], games).batch

        def roll(space: ActionSpace, prompts: Batch, key: Array) -> RLBatch:
            ids = jnp.zeros((games * turns, 1), jnp.int32)
            out = rollout(space, prompts, ids, key, self._one)
            return RLBatch(prompts, out, jnp.zeros(ids.shape, jnp.float32), out.mask)

        whole = jax.tree.map(lambda x: np.zeros((games * turns, *x.shape[1:]), x.dtype), one)
        return jax.eval_shape(roll, self.actions(state), whole, replicate(state.key, self.rollout_mesh))

    @property
    def _one(self) -> RolloutConfig:
        return dataclasses.replace(self.config.rollout, samples=1)

    def _games(self, prompts: int) -> int:
        """Games of a batch, with those that fill up the mesh."""
        games = prompts * self.config.rollout.samples
        shards = math.lcm(*(1 if mesh is None else mesh.shape["data"] for mesh in (self.mesh, self.rollout_mesh)))
        return games + -games % shards

    def _attempt(
        self, space: ActionSpace, drawn: Collated, key: Array, step: int, number: int
    ) -> tuple[RLBatch, Metrics]:
        config, examples = self.config, drawn.examples
        began = time.monotonic()
        count, samples = len(examples), config.rollout.samples
        games = self._games(count)
        episodes = play(
            space,
            self.environment,
            examples,
            samples,
            self.collate,
            self.decode,
            config.rollout,
            key,
            first=number * count * samples,
            layout=self.layout,
            rows=games,
        )
        prompts, out = place(stacked(episodes, config.turns, games), self.mesh, UPDATE)
        real = count * config.rows
        shown = _in_a_row(out, real, samples, config.turns)
        mask = np.asarray(to_host(shown.mask))
        scores = _scores(episodes, mask.sum(axis=-1), (count, samples))
        advantages, active = advantages_of(config.algorithm, scores, config.rollout.length * config.turns)
        own, counts = (np.repeat(x.reshape(-1), config.turns)[:, None] for x in (advantages, active))
        batch = with_advantages(prompts, out, own, counts, self.mesh)
        generated = time.monotonic() - began
        if self.observe is not None:
            self.observe(Attempt(step, number, examples, shown, scores))
        ended = np.asarray(to_host(_ended(out.tokens, out.mask, self._ends)))[:real]
        answered = np.asarray(to_host(jnp.any(out.mask, axis=-1)))[:real]
        return batch, {
            **scores.metrics(ended[answered]),
            "turns_mean": float(episodes.games.turns.mean()),
            "prompt_tokens": _mean_of(episodes, 0),
            "prompt_pictures": _mean_of(episodes, 1),
            "rows_cut": float(episodes.cuts.rows),
            "tokens_cut": float(episodes.cuts.tokens),
            "informative_groups": float((active & (advantages != 0)).any(axis=1).mean()),
            "generation_s": generated,
            "reward_s": 0.0,
            "reward_wait_s": 0.0,
        }


def _scores(episodes: Episodes, lengths: np.ndarray, shape: tuple[int, int]) -> Scores:
    verdicts = episodes.games.verdicts()
    parts = {
        name: np.array([verdict.parts[name] for verdict in verdicts]).reshape(shape)
        for name in sorted(verdicts[0].parts)
    }
    ok: Bool[np.ndarray, "N G"] = np.ones(shape, bool)
    return Scores(episodes.games.returns.reshape(shape), ok, lengths.astype(np.int32), parts)


def _mean_of(episodes: Episodes, which: int) -> float:
    """Mean over the answers of a size of their prompts."""
    values = np.concatenate([turn.sizes[which][turn.alive] for turn in episodes.turns])
    return float(values.mean())


def _in_a_row(out: Rollout, real: int, samples: int, turns: int) -> Rollout:
    cut = jax.tree.map(lambda x: x[:real], out.replace(prompt_hidden=None, hidden=None))
    return in_a_row(cut, samples, turns)


_ended = jax.jit(ends_well, static_argnums=2)
