"""Stage 6: reinforcement learning over codes or over tokens (METHOD section 4). One step: roll out, reward, update.

Legend: N prompts, G samples of a prompt, T completion length.
"""

import dataclasses
import functools
import time
from collections.abc import Iterator
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float

from lam_jax.data.collator import Collated
from lam_jax.latent.agent import Agent
from lam_jax.models.inputs import Batch
from lam_jax.nn.layout import Layout
from lam_jax.parallel import UPDATE, constrain_weights, mesh_of, place, use
from lam_jax.parallel.choose_layout import choose_layout, statics
from lam_jax.parallel.exchange import take_rows
from lam_jax.parallel.multihost import to_host
from lam_jax.rl import (
    Algorithm,
    compute_advantages,
    count_batch,
    fill_slots,
    informative_groups,
    loss_denominator,
    overlong_penalty,
    policy_loss,
)
from lam_jax.rollout.actions import ActionSpace, LatentActions, TokenActions
from lam_jax.rollout.engine import Rollout, RolloutConfig, rollout
from lam_jax.rollout.rescore import latent_logps, token_space_logps
from lam_jax.rollout.run import fill_prompts, run_rollout
from lam_jax.rollout.weights import rollout_weights
from lam_jax.train.method import Method
from lam_jax.train.optimiser import Optimiser, OptimiserConfig
from lam_jax.train.partition import VOCABULARY_TABLES, in_dtype, merge
from lam_jax.train.rl_batch import RLBatch, longest, shortened
from lam_jax.train.rl_rewards import Reward, masked_mean, score
from lam_jax.train.state import TrainState

Space = Literal["latent", "token"]


@dataclasses.dataclass(frozen=True)
class RLConfig:
    """Settings of a run of stage 6; the defaults are the released ones.

    Attributes:
        algorithm: which policy gradient.
        space: what an action is.
        steps: rollouts.
        prompts: N, prompts of each rollout.
        rollout: how they are continued.
        epochs: passes over each rollout.
        mini_batches: optimiser steps of each pass, over equal shares of the prompts.
        optimiser: learning rate and schedule.
        remat: recompute activations in the update's backward pass.
        update_lengths: buckets below the rollout's length; an update runs at the smallest that holds its completions.
    """

    algorithm: Algorithm
    space: Space
    steps: int = 100
    prompts: int = 4
    rollout: RolloutConfig = dataclasses.field(default_factory=RolloutConfig)
    epochs: int = 1
    mini_batches: int = 1
    optimiser: OptimiserConfig = dataclasses.field(default_factory=lambda: OptimiserConfig(lr=1e-6))
    remat: bool = False
    update_lengths: tuple[int, ...] = ()

    def __post_init__(self):
        buckets = (0, *self.update_lengths, self.rollout.length)
        if list(buckets) != sorted(set(buckets)):
            raise ValueError(
                f"RLConfig.update_lengths is {self.update_lengths}, expected increasing numbers from 1 to below the "
                f"rollout's length {self.rollout.length}."
            )
        if self.space not in ("latent", "token"):
            raise ValueError(f"RLConfig.space is {self.space!r}, expected 'latent' or 'token'.")
        for name in ("steps", "prompts", "epochs", "mini_batches"):
            if getattr(self, name) < 1:
                raise ValueError(f"RLConfig.{name} must be at least 1, got {getattr(self, name)}.")
        if self.prompts % self.mini_batches:
            raise ValueError(f"RLConfig.mini_batches {self.mini_batches} must divide prompts {self.prompts}.")

    @property
    def updates(self) -> int:
        """Optimiser steps of one rollout."""
        return self.epochs * self.mini_batches


def action_space(agent: Agent, space: Space, method: Method) -> ActionSpace:
    """The action space in which `agent` is rolled out."""
    return LatentActions(agent, method.generating) if space == "latent" else TokenActions(agent.backbone)


def policy_logps(
    agent: Agent, space: Space, method: Method, taken: RLBatch, config: RolloutConfig, remat: bool = False
) -> tuple[Array, Array]:
    """Log-probabilities of the taken actions and entropies, both [N, G, T]."""
    if space == "latent":
        chosen = LatentActions(agent, method.acting)
        return latent_logps(chosen, taken.prompts, taken.rollout, config.sampling, remat)
    return token_space_logps(agent.backbone, taken.prompts, taken.rollout, config.sampling, remat)


class Update:
    """(state, frozen, reference, taken) -> (state, metrics), jitted for the weights' mesh; the state is donated."""

    def __init__(self, config: RLConfig, method: Method, optimiser: Optimiser, layout: Layout | None = None):
        algorithm = config.algorithm

        def objective(trainable, frozen, reference, taken: RLBatch):
            dtype = frozen.backbone.config.dtype
            agent = merge(in_dtype(trainable, dtype, VOCABULARY_TABLES), frozen)
            logps, entropies = policy_logps(agent, config.space, method, taken, config.rollout, config.remat)
            ref_logps = None
            if algorithm.beta > 0:
                behind = merge(in_dtype(reference, dtype), frozen)
                ref, _ = policy_logps(behind, config.space, method, taken, config.rollout)
                ref_logps = _flat(jax.lax.stop_gradient(ref))
            mask = _flat(taken.mask)
            # Prompts that only fill up a mesh are padding throughout.
            real = jnp.repeat(jnp.any(taken.prompts.mask, axis=1), config.rollout.samples)
            denominator = loss_denominator(algorithm.normaliser, count_batch(mask, real), config.rollout.length)
            # With one update a rollout the ratio is 1 by construction; recorded log-probabilities would only add
            # rounding.
            old_logps = None if config.updates == 1 else _flat(taken.rollout.logps)
            loss, metrics = policy_loss(
                algorithm,
                _flat(logps),
                old_logps,
                ref_logps,
                taken.advantages.reshape(-1),
                mask,
                denominator,
                _flat(entropies),
            )
            return loss, {"loss": loss, **metrics.means()}

        @functools.partial(jax.jit, donate_argnums=0, static_argnames=("mesh", "layout"))
        def update(state: TrainState, frozen: Agent, reference: Any, taken: RLBatch, mesh: Mesh | None, layout: Layout):
            with use(mesh, UPDATE, layout):
                (_, metrics), gradients = jax.value_and_grad(objective, has_aux=True)(
                    state.trainable, frozen, reference, taken
                )
                gradients = constrain_weights(gradients, frozen.specs)
                state, applied = state.apply_gradients(gradients, optimiser)
                return state, metrics | applied

        self._update, self.layout = update, layout

    def __call__(self, state: TrainState, frozen: Agent, reference: Any, taken: RLBatch) -> tuple[TrainState, dict]:
        """One optimiser step."""
        return self._update(state, frozen, reference, taken, **statics((state.trainable, frozen), self.layout))

    def trace(self, state: TrainState, frozen: Agent, reference: Any, taken: RLBatch) -> jax.stages.Traced:
        """The update, traced for arguments that may be shape structs with shardings."""
        return self._update.trace(state, frozen, reference, taken, **statics((state.trainable, frozen), self.layout))

    def lower(self, state: TrainState, frozen: Agent, reference: Any, taken: RLBatch) -> jax.stages.Lowered:
        """The update, lowered for such arguments."""
        return self.trace(state, frozen, reference, taken).lower()


def make_update(config: RLConfig, method: Method, optimiser: Optimiser, layout: Layout | None = None) -> Update:
    """The policy update of `config.algorithm`; see `Update`. `layout`: of the program; default: what suits the mesh."""
    return Update(config, method, optimiser, layout)


def _flat(x: Array) -> Array:
    return x.reshape(-1, x.shape[-1])


class Decoder:
    """Turns completion tokens into text."""

    def __init__(self, tokenizer: Any):
        self.tokenizer = tokenizer

    def __call__(self, tokens: np.ndarray, mask: np.ndarray) -> list[list[str]]:
        """Answers [N][G] of tokens and mask [N, G, T], special tokens left out."""
        groups = [[list(row[keep]) for row, keep in zip(rows, keeps)] for rows, keeps in zip(tokens, mask)]
        return [self.tokenizer.batch_decode(group, skip_special_tokens=True) for group in groups]


class RLStep:
    """One step of stage 6 as `fit` wants it: (state, collated prompts) -> (state, metrics).

    Args:
        config: settings.
        method: switches.
        frozen: the agent without its trainable part.
        reference: the trainable part at the start, for the KL.
        optimiser: for `config.steps * config.updates` steps.
        reward: scores answers.
        decode: tokens to text.
        refill: where dynamic sampling draws further prompts from.
        layout: of rollouts and updates; default: what suits the mesh.
    """

    def __init__(
        self,
        config: RLConfig,
        method: Method,
        frozen: Agent,
        reference: Any,
        optimiser: Optimiser,
        reward: Reward,
        decode: Decoder,
        refill: Iterator[Collated],
        layout: Layout | None = None,
    ):
        self.config, self.method, self.frozen = config, method, frozen
        self.rollout_frozen = self._for_rollouts(frozen)
        self.mesh = mesh_of((reference, frozen))
        self.layout = choose_layout(self.mesh) if layout is None else layout
        _require_whole_parts(config, self.mesh)
        self.reference = jax.tree.map(jnp.copy, reference)
        self.reward, self.decode, self.refill = reward, decode, refill
        self.update = make_update(config, method, optimiser, self.layout)
        self._began = self._rewarded_at = time.monotonic()

    @property
    def updates(self) -> int:
        """Optimiser steps of one rollout."""
        return self.config.updates

    def __call__(self, state: TrainState, collated: Collated) -> tuple[TrainState, dict[str, Any]]:
        """Rolls out, rewards, updates."""
        taken, metrics = self.prepare(state, collated)
        applied: dict[str, Any] = {}
        for index in range(self.updates):
            state, applied = self.apply(state, taken, index)
        return state, self.finish(state, taken, metrics | applied)

    def prepare(self, state: TrainState, collated: Collated) -> tuple[RLBatch, dict[str, Any]]:
        """Rolls out and rewards."""
        key = state.step_key()
        self._began = time.monotonic()
        taken, metrics = self._rewarded(state, collated, key, 0)
        taken, refills = self._dynamic(state, collated, taken, metrics, key)
        self._rewarded_at = time.monotonic()
        return taken, metrics | {"refills": float(refills)}

    def buffer_like(self, state: TrainState, collated: Collated) -> RLBatch:
        """Shape structs of the rollout that `prepare` gives for prompts of this shape."""
        space = action_space(
            merge(self._for_rollouts(state.trainable), self.rollout_frozen), self.config.space, self.method
        )

        def roll(space: ActionSpace, prompts: Batch, key: Array) -> RLBatch:
            ids = jnp.zeros((prompts.tokens.shape[0], self.config.rollout.samples), jnp.int32)
            out = rollout(space, prompts, ids, key, self.config.rollout)
            return RLBatch(prompts, out, jnp.zeros(ids.shape, jnp.float32), out.mask)

        return jax.eval_shape(roll, space, fill_prompts(collated.batch, space), state.key)

    def apply(self, state: TrainState, taken: RLBatch, index: int) -> tuple[TrainState, dict[str, Any]]:
        """Update `index` of a rollout: its share of the prompts in one of the passes."""
        part = self.part(taken, index)
        if self.config.update_lengths:
            needed = longest(part)
            part = shortened(part, next(b for b in self.update_buckets if b >= needed))
        return self.update(state, self.frozen, self.reference, part)

    @property
    def update_buckets(self) -> tuple[int, ...]:
        """Completion lengths that updates run at."""
        return (*self.config.update_lengths, self.config.rollout.length)

    def part(self, taken: RLBatch, index: int) -> RLBatch:
        """The share of the prompts that update `index` is made of."""
        count = self.config.mini_batches
        if count == 1:
            return taken
        size = self.config.prompts // count
        return take_rows(taken, jnp.arange(size) + index % count * size, self.mesh)

    def finish(self, state: TrainState, taken: RLBatch, metrics: dict[str, Any]) -> dict[str, Any]:
        """Adds the times, of this process's part in the step."""
        jax.block_until_ready(state.trainable)
        done = time.monotonic()
        tokens = float(jnp.sum(taken.rollout.mask))
        rollout_s, update_s = metrics.pop("generation_s"), done - self._rewarded_at
        return metrics | {
            "rollout_s": rollout_s,
            "update_s": update_s,
            "rl_step_s": done - self._began,
            "rollout_tokens_per_s": tokens / rollout_s,
            "update_tokens_per_s": tokens / update_s,
        }

    def _rewarded(self, state, collated: Collated, key: Array, attempt: int) -> tuple[RLBatch, dict[str, Any]]:
        config, algorithm = self.config, self.config.algorithm
        began = time.monotonic()
        prompts, out = self.roll_out(state, collated.batch, key, attempt)
        jax.block_until_ready(out)
        generated = time.monotonic()
        rewards, ok, lengths = score(out.tokens, out.mask, collated.examples, self.decode, self.reward)
        zone = algorithm.overlong_tokens(config.rollout.length)
        shaped = rewards + overlong_penalty(lengths, config.rollout.length, zone)
        advantages, active = compute_advantages(algorithm, shaped.astype(np.float32), ok)
        if algorithm.dynamic_sampling_std is not None:
            informative = informative_groups(shaped, ok, algorithm.dynamic_sampling_std)
            active = active & jnp.asarray(informative)[:, None]
        taken = self.taken(prompts, out, advantages, active)
        metrics = {
            "reward_mean": float(rewards[ok].mean()) if ok.any() else 0.0,
            "reward_std": _group_std(rewards, ok),
            "length_mean": float(lengths.mean()),
            "ended": float((lengths < config.rollout.length).mean()),
            "failed_rewards": float((~ok).sum()),
            "logp_gap": float(masked_mean(out.logp_gap, out.mask)),
            "informative_groups": float(np.asarray(active).any(axis=1).mean()),
            "generation_s": generated - began,
            "reward_s": time.monotonic() - generated,
        }
        return taken, metrics

    def roll_out(self, state: TrainState, batch: Batch, key: Array, attempt: int = 0) -> tuple[Batch, Rollout]:
        """Prompts on the mesh, filled up to its shards, and their continuations; attempt 1 and up are refills."""
        agent = merge(self._for_rollouts(state.trainable), self.rollout_frozen)
        space = action_space(agent, self.config.space, self.method)
        count, samples = len(batch.tokens), self.config.rollout.samples
        # Placed here, so that an update after a refill is the same program.
        prompts = place(fill_prompts(batch, space), self.mesh, UPDATE)
        ids = np.arange(len(prompts.tokens) * samples, dtype=np.int32) + attempt * count * samples
        return prompts, run_rollout(space, prompts, ids.reshape(-1, samples), key, self.config.rollout, self.layout)

    def taken(self, prompts: Batch, out: Rollout, advantages: Any, active: Any) -> RLBatch:
        """A rollout with advantages and active [N, G] of its prompts; those that fill up the mesh get none."""
        if filling := len(prompts.tokens) - len(advantages):
            advantages, active = (jnp.pad(x, ((0, filling), (0, 0))) for x in (advantages, active))
        advantages, active = place((advantages, active), self.mesh, UPDATE, "prompts", "samples")
        return RLBatch(prompts, out, advantages, out.mask & active[..., None])

    def _for_rollouts(self, part: Agent) -> Agent:
        return rollout_weights(part, self.frozen.specs, self.frozen.backbone.config.dtype)

    def _dynamic(
        self, state, collated: Collated, taken: RLBatch, metrics: dict[str, Any], key: Array
    ) -> tuple[RLBatch, int]:
        """DAPO's dynamic sampling: groups without a signal are replaced by those of further prompts."""
        refills = 0
        if self.config.algorithm.dynamic_sampling_std is None:
            return taken, refills
        # Rows that fill up the mesh stay as they are.
        keep = np.asarray(to_host(jnp.any(taken.mask, axis=(1, 2)) | ~jnp.any(taken.prompts.mask, axis=1)))
        while not keep.all() and refills < self.config.algorithm.max_refills:
            refills += 1
            drawn = next(self.refill)
            if drawn.batch.tokens.shape != collated.batch.tokens.shape:
                raise ValueError(
                    f"Dynamic sampling mixes prompts of several batches: found {drawn.batch.tokens.shape} after "
                    f"{collated.batch.tokens.shape}. Give the collator of the prompts a single length."
                )
            more, extra = self._rewarded(state, drawn, key, refills)
            source, keep = fill_slots(keep, np.asarray(to_host(jnp.any(more.mask, axis=(1, 2)))))
            taken = replace_rows(taken, more, jnp.asarray(source), self.mesh)
            for name in ("generation_s", "reward_s"):
                metrics[name] += extra[name]
        return taken, refills


def _require_whole_parts(config: RLConfig, mesh: Mesh | None) -> None:
    shards = 1 if mesh is None else mesh.shape["data"]
    size = config.prompts // config.mini_batches
    if config.mini_batches > 1 and size % shards:
        raise ValueError(
            f"RLConfig: {config.mini_batches} mini-batches of {size} prompts do not divide over data = {shards}. "
            f"Use prompts a multiple of {shards * config.mini_batches}, fewer mini_batches, or a smaller data axis."
        )


def _group_std(rewards: Float[np.ndarray, "N G"], ok: Bool[np.ndarray, "N G"]) -> float:
    """Mean over prompts of the sample standard deviation of the successful rewards, where there are two or more."""
    spreads = [row[kept].std(ddof=1) for row, kept in zip(rewards, ok) if kept.sum() >= 2]
    return float(np.mean(spreads)) if spreads else 0.0


@functools.partial(jax.jit, static_argnames="mesh")
def replace_rows(taken: RLBatch, more: RLBatch, source: Array, mesh: Mesh | None) -> RLBatch:
    """Row i of `more[source[i]]` where source is not -1."""

    def choose(old, fresh):
        return jnp.where((source >= 0).reshape(-1, *(1,) * (old.ndim - 1)), fresh, old)

    return jax.tree.map(choose, taken, take_rows(more, source, mesh))
