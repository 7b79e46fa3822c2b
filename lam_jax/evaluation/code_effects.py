"""Which next tokens a code raises and lowers: the world model under each code against the mean over codes.

Positions and codes are gone through in chunks: never is there [N, K, V] at once.
Legend: N positions, M positions of a chunk, D width, K codes, V vocabulary, C classes of context, T tokens shown.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from lam_jax.latent.agent import Agent, Reading
from lam_jax.nn.layout import Layout
from lam_jax.parallel import TRAIN, replicate, use
from lam_jax.parallel.choose_layout import statics
from lam_jax.parallel.multihost import to_host

MEMORY = 256 << 20  # bytes of the mean distributions of all positions
CHUNK = 32 << 20  # bytes of the distributions of a chunk
Record = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Effects:
    """What codes do to the next token; probabilities are means over the positions of a class.

    Attributes:
        kl: nats by code: KL(next token under the code, mean over codes), mean over positions.
        distinct: mean number of different most likely tokens over all codes at a position.
        moved: by code the share of positions where its most likely token is another than that of the mean.
        raised, lowered: by code and class a list of `{"token", "p", "mean"}`, the largest change first.
        positions: of each class; the last class is all positions.
    """

    kl: Float[np.ndarray, " K"]
    distinct: float
    moved: Float[np.ndarray, " K"]
    raised: list[list[list[Record]]]
    lowered: list[list[list[Record]]]
    positions: list[int]


def most_positions(vocabulary: int) -> int:
    """How many positions `code_effects` takes within its memory."""
    return max(64, min(4096, MEMORY // (4 * vocabulary)))


@functools.partial(jax.jit, static_argnames=("reading", "mesh", "layout"))
def _mixture(
    agent: Agent, x: Float[Array, "M D"], reading: Reading, mesh: Mesh | None, layout: Layout
) -> Float[Array, "M V"]:
    codes = agent.latent.config.codes
    with use(mesh, TRAIN, layout):

        def add(total: Array, code: Array) -> tuple[Array, None]:
            return total + _next(agent, x, code, reading), None

        start = jnp.zeros((len(x), agent.backbone.config.text.vocab_size), jnp.float32)
        return jax.lax.scan(add, start, jnp.arange(codes))[0] / codes


def _next(agent: Agent, x: Array, code: Array, reading: Reading) -> Float[Array, "M V"]:
    row = jnp.broadcast_to(agent.latent.look_up(code), x.shape)
    return jax.nn.softmax(agent.backbone.logits(agent.read(x, row, reading)), axis=-1)


@functools.partial(jax.jit, static_argnames=("reading", "most", "mesh", "layout"))
def _code(
    agent: Agent,
    chunks: Float[Array, "S M D"],
    mixtures: Float[Array, "S M V"],
    member: Float[Array, "S M C"],
    mean: Float[Array, "C V"],
    code: Array,
    reading: Reading,
    most: int,
    mesh: Mesh | None,
    layout: Layout,
) -> dict[str, Array]:
    with use(mesh, TRAIN, layout):

        def add(total: Array, chunk: tuple[Array, Array, Array]) -> tuple[Array, tuple[Array, Array]]:
            x, mixture, own = chunk
            p = _next(agent, x, code, reading)
            kl = jnp.sum(
                jnp.where(p > 0, p * (jnp.log(jnp.maximum(p, 1e-30)) - jnp.log(jnp.maximum(mixture, 1e-30))), 0),
                axis=-1,
            )
            return total + own.T @ p, (kl, jnp.argmax(p, axis=-1))

        total, (kl, top) = jax.lax.scan(add, jnp.zeros_like(mean), (chunks, mixtures, member))
        count = jnp.sum(member, axis=(0, 1))[:, None]
        p = total / jnp.maximum(count, 1.0)
        found = {"kl": kl.reshape(-1), "top": top.reshape(-1)}
        for name, sign in (("raised", 1.0), ("lowered", -1.0)):
            change, tokens = jax.lax.top_k(sign * (p - mean), most)
            found |= {
                name: tokens,
                f"{name}_change": change,
                f"{name}_p": jnp.take_along_axis(p, tokens, axis=1),
                f"{name}_mean": jnp.take_along_axis(mean, tokens, axis=1),
            }
        return found


@jax.jit
def _class_means(mixtures: Float[Array, "S M V"], member: Float[Array, "S M C"]) -> Float[Array, "C V"]:
    count = jnp.maximum(jnp.sum(member, axis=(0, 1)), 1.0)[:, None]
    return jnp.einsum("smc,smv->cv", member, mixtures, precision="highest") / count


def code_effects(
    agent: Agent,
    states: Float[np.ndarray, "N D"],
    classes: Int[np.ndarray, " N"],
    count: int,
    reading: Reading,
    most: int = 6,
    progress: Callable[[Iterable[Any]], Iterable[Any]] = iter,
) -> Effects:
    """What each code does to the next token.

    Args:
        agent: with latent modules.
        states: merge inputs, at most `most_positions(V)`.
        classes: class of each state's context, 0 to count - 1.
        count: number of classes.
        reading: readout that codes act through.
        most: tokens shown of each kind.
        progress: wraps the codes.

    Raises:
        ValueError: no states.
    """
    if not len(states):
        raise ValueError("found no states, expected those of one position or more")
    vocabulary, codes, static = agent.backbone.config.text.vocab_size, agent.latent.config.codes, statics(agent)
    size = max(1, min(len(states), CHUNK // (4 * vocabulary)))
    missing = -len(states) % size
    x = np.concatenate([states, np.repeat(states[:1], missing, axis=0)])
    member = np.zeros((len(x), count + 1), np.float32)
    member[np.arange(len(states)), classes] = 1
    member[: len(states), count] = 1
    dtype = agent.backbone.config.dtype
    chunks = replicate(jnp.asarray(x.reshape(-1, size, x.shape[1]), dtype), static["mesh"])
    members = replicate(jnp.asarray(member.reshape(-1, size, count + 1)), static["mesh"])
    mixtures = jnp.stack([_mixture(agent, chunk, reading, **static) for chunk in chunks])
    mean = _class_means(mixtures, members)
    found = [
        to_host(_code(agent, chunks, mixtures, members, mean, replicate(jnp.int32(code), static["mesh"]), reading,
                      most=min(most, vocabulary), **static))
        for code in progress(range(codes))
    ]  # fmt: skip
    real = slice(len(states))
    tops = np.stack([one["top"][real] for one in found])
    usual = np.asarray(to_host(jnp.argmax(mixtures, axis=-1))).reshape(-1)[real]
    positions = member.sum(0).astype(int).tolist()

    def tokens(one: dict[str, np.ndarray], name: str) -> list[list[Record]]:
        return [
            [
                {"token": int(token), "p": float(p), "mean": float(base)}
                for token, change, p, base in zip(*(one[f"{name}{end}"][c] for end in ("", "_change", "_p", "_mean")))
                if change > 1e-6
            ]
            if positions[c]
            else []
            for c in range(count + 1)
        ]

    return Effects(
        kl=np.array([one["kl"][real].mean() for one in found], np.float64),
        distinct=float(np.mean([len(set(column)) for column in tops.T.tolist()])),
        moved=(tops != usual).mean(axis=1),
        raised=[tokens(one, "raised") for one in found],
        lowered=[tokens(one, "lowered") for one in found],
        positions=positions,
    )
