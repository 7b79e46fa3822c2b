"""What the codes can do (method.md section 6): at the positions of reference answers, what each of them would emit.

The causal test (`codes.py`) counts the damage that a random code does; this counts what the codes reach.
Legend: B rows, L length, D width, K codes, V vocabulary, M positions, R rows of a part, S positions of a part's row.
"""

import dataclasses
import functools
from collections.abc import Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from lam_jax.latent.agent import Agent, Reading
from lam_jax.latent.world import readout
from lam_jax.losses import target_mask
from lam_jax.models.inputs import Batch
from lam_jax.nn.layout import Layout
from lam_jax.nn.vocabulary import arg_max, log_sum_exp, pick
from lam_jax.parallel import TRAIN, place, use
from lam_jax.parallel.choose_layout import statics
from lam_jax.parallel.multihost import to_host
from lam_jax.train.stages.inverse_pass import frozen_states, inverse_logits

# Positions of a part: [K, V] at each of them would not fit, so a part takes one code after the other.
PART = 256


@dataclasses.dataclass(frozen=True)
class Emissions:
    """At each position of reference answers, what the backbone and every code say of the next token; on the host.

    Attributes:
        row: int [M], number of the position's row, over all batches; positions of a row are in order.
        target: int [M], the reference's next token.
        backbone_logp: [M], its log-probability under the backbone alone.
        backbone_token: int [M], the backbone's most likely token.
        policy: [M, K], log-probabilities of the codes under the policy.
        inferred: int [M], the inverse model's code.
        logp: [M, K], log-probability of the target under each code.
        token: int [M, K], the token that each code emits.
    """

    row: np.ndarray
    target: np.ndarray
    backbone_logp: np.ndarray
    backbone_token: np.ndarray
    policy: np.ndarray
    inferred: np.ndarray
    logp: np.ndarray
    token: np.ndarray

    def figures(self) -> dict[str, float]:
        """Means over all positions, in nats or shares, and their number; see docs/metrics.md.

        Raises:
            ValueError: there are no positions.
        """
        if not len(self.target):
            raise ValueError("No position has a response token as its target, so nothing can be said of the codes.")
        logp, policy = self.logp.astype(np.float64), self.policy.astype(np.float64)
        mixed = policy + logp
        peak = mixed.max(axis=1)
        mixture = peak + np.log(np.exp(mixed - peak[:, None]).sum(axis=1))
        inferred = _of(logp, self.inferred)
        # alike[m, k]: how many codes emit what code k emits; shared: how likely the policy takes one of those.
        same = [self.token == self.token[:, k : k + 1] for k in range(self.token.shape[1])]
        alike = np.sum(same, axis=0)
        shared = np.sum([np.exp(policy[:, k : k + 1]) * equal for k, equal in enumerate(same)], axis=0)
        hits = self.token == self.target[:, None]
        codes = self.token.shape[1]
        found = {
            "backbone_logp": self.backbone_logp,
            "inferred_logp": inferred,
            "policy_logp": mixture,
            "gain_over_backbone": inferred - self.backbone_logp,
            "gain_over_policy": inferred - mixture,
            "best_gain": logp.max(axis=1) - self.backbone_logp,
            "distinct_tokens": (1.0 / alike).sum(axis=1),
            "emitted_entropy": -np.log(alike / codes).mean(axis=1),
            "policy_emitted_entropy": -(np.exp(policy) * np.log(np.maximum(shared, 1e-30))).sum(axis=1),
            "reached": hits.any(axis=1),
            "inferred_reached": _of(hits, self.inferred),
            "backbone_reached": self.backbone_token == self.target,
        }
        return {"positions": len(self.target), **{name: float(np.mean(values)) for name, values in found.items()}}

    def along(self, rows: int, inferred: bool = True) -> list[list[int]]:
        """Of each of `rows` rows the tokens that are emitted along its reference: at each position after its own past.

        Args:
            rows: how many; those without a position get none.
            inferred: under the inverse model's codes, which know the next token; else by the backbone alone.
        """
        tokens = _of(self.token, self.inferred) if inferred else self.backbone_token
        return [tokens[self.row == row].tolist() for row in range(rows)]


def _of(values: np.ndarray, index: np.ndarray) -> np.ndarray:
    return np.take_along_axis(values, index[:, None], axis=1)[:, 0]


@functools.partial(jax.jit, static_argnames=("reading", "mesh", "layout"))
def _look(agent: Agent, batch: Batch, reading: Reading, mesh: Mesh | None, layout: Layout) -> tuple[Array, ...]:
    """States and input of the merge [B, L, D], log-probabilities of the policy [B, L, K], inferred codes [B, L]."""
    with use(mesh, TRAIN, layout):
        states = frozen_states(agent, batch)
        x = agent.action_input(states, batch.has_image, reading)
        policy = agent.latent.policy(x, agent.backbone.rotary(batch.positions), batch.mask)
        inferred = jnp.argmax(inverse_logits(agent, x, batch), axis=-1)
        return states, x, jax.nn.log_softmax(policy, axis=-1), inferred


@functools.partial(jax.jit, static_argnames=("reading", "mesh", "layout"))
def _emit(
    agent: Agent,
    states: Float[Array, "R S D"],
    merge_input: Float[Array, "R S D"],
    target: Int[Array, "R S"],
    reading: Reading,
    mesh: Mesh | None,
    layout: Layout,
) -> Any:
    """(log-probability of the target, most likely token) of the backbone [R, S], and of each code [K, R, S]."""
    # The map of every code is looked up; the C kernel is for the few rows of a decode step.
    with use(mesh, TRAIN, dataclasses.replace(layout, pack=None)):
        backbone, latent = agent.backbone, agent.latent
        world = latent.world.tabulated(latent.codebook.astype(backbone.config.dtype))

        def said(out: Array) -> tuple[Array, Array]:
            logits = backbone.logits(out)
            return pick(logits, target) - log_sum_exp(logits), arg_max(logits)

        def under(code: Array) -> tuple[Array, Array]:
            merged, block = world(merge_input, jnp.full(target.shape, code, jnp.int32))
            return said(readout(reading.readout, merge_input, merged, block, backbone.norm))

        codes = jnp.arange(latent.config.codes, dtype=jnp.int32)
        return said(states), jax.lax.map(under, codes)


def emissions(agent: Agent, batches: Iterable[Batch], reading: Reading) -> Emissions:
    """What the backbone and every code say at the positions whose next token is one of a response.

    Codes are gone through one after the other, for 256 positions at a time. All processes must call it.

    Args:
        agent: on its mesh.
        batches: whole chats, on the host or on the mesh.
        reading: of the world model.
    """
    static, parts, first = statics(agent), [], 0
    for batch in batches:
        seen = to_host(_look(agent, place(batch, static["mesh"], TRAIN), reading, **static))
        tokens, valid, mask, response = to_host((batch.tokens, batch.valid, batch.mask, batch.response))
        keep = target_mask(jnp.asarray(valid), jnp.asarray(mask), jnp.asarray(response))
        row, position = np.nonzero(np.asarray(keep))
        states, merge_input, policy, inferred = (np.asarray(x)[row, position] for x in seen)
        tokens = np.asarray(tokens)
        target = tokens[row, position + 1]
        (backbone, said), (logp, token) = _in_parts(agent, states, merge_input, target, reading, static)
        numbers = row + first
        parts.append((numbers, target, backbone, said, policy, inferred, logp, token))
        first += len(tokens)
    return Emissions(*(np.concatenate(values) for values in zip(*parts)))


def _in_parts(
    agent: Agent, states: np.ndarray, merge_input: np.ndarray, target: np.ndarray, reading: Reading, static: Any
) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """`_emit` of M positions, in parts of one shape that divides over the mesh; codes last."""
    mesh = static["mesh"]
    shards = 1 if mesh is None else mesh.shape["data"] * mesh.shape["fsdp"]
    width = max(1, PART // shards)
    found: list[Any] = []
    for arrays, count in _parts((states, merge_input, target), shards * width):
        shaped = [x.reshape(shards, width, *x.shape[1:]) for x in arrays]
        one = to_host(_emit(agent, *place(shaped, mesh, TRAIN), reading, **static))
        found.append(jax.tree.map(lambda x, n=count: x.reshape(*x.shape[:-2], -1)[..., :n], one))
    if not found:
        codes, none = agent.latent.config.codes, np.zeros(0, np.float32)
        empty = np.zeros((0, codes), np.float32)
        return (none, none.astype(np.int32)), (empty, empty.astype(np.int32))
    backbone, coded = jax.tree.map(lambda *x: np.concatenate(x, axis=-1), *found)
    return backbone, tuple(x.T for x in coded)


def _parts(arrays: tuple[np.ndarray, ...], size: int) -> Iterator[tuple[list[np.ndarray], int]]:
    """Parts of `size` entries, the last one filled up with zeros, and how many entries count."""
    for start in range(0, len(arrays[0]), size):
        own = [x[start : start + size] for x in arrays]
        count = len(own[0])
        yield [np.concatenate([x, np.zeros((size - count, *x.shape[1:]), x.dtype)]) for x in own], count
