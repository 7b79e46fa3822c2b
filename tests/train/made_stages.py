"""What the tests of the stages' losses are run on: an agent, its batches, and every stage's loss under a name."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lam_jax.latent.agent import Agent
from lam_jax.train.method import METHODS, Method
from lam_jax.train.partition import path_name
from lam_jax.train.stages import (
    SFT_LEARN,
    STAGES,
    MixedBatch,
    cloning_loss,
    inverse_loss,
    joint_loss,
    latent_sft_loss,
    projector_loss,
    token_sft_loss,
)
from tests import tiny
from tests.tiny import Row, make_batch, words

LENGTH = 12
DEFAULT, OFFICIAL = METHODS["default"], METHODS["official"]
_PAIRED = [Row(words(6), ((1, 4, 4),), 3), Row(words(4, 1), ((1, 2, 2),), 2, seed=1)]
_TEXT = [Row(words(11, 2), response=4), Row(words(5, 3), response=2)]


def mixed(left: bool = False) -> MixedBatch:
    """Two paired and two text-only rows; one of each is padded, on the right or on the left."""
    return MixedBatch(make_batch(_PAIRED, LENGTH, left), make_batch(_TEXT, LENGTH, left))


def chats(left: bool = False):
    """Rows of a task: two with an image and one without."""
    return make_batch([*_PAIRED, _TEXT[1]], LENGTH, left)


def silent(batch):
    """The same rows, none of whose positions counts."""
    return batch.replace(valid=jnp.zeros_like(batch.valid))


@functools.cache
def agent() -> Agent:
    """The tiny agent with a head of its own, so that what reads the embedding is told from what reads the head."""
    text = dataclasses.replace(tiny.CONFIG.text, tied=False)
    return tiny.draw_agent(dataclasses.replace(tiny.CONFIG, text=text), tiny.LATENT)


Loss = Callable[[Agent, Any, Any, Method], tuple[jax.Array, dict[str, jax.Array]]]
LOSSES: dict[str, Loss] = {
    "inverse": inverse_loss,
    "projector": projector_loss,
    "joint": joint_loss,
    "cloning": cloning_loss,
    "sft_token": token_sft_loss,
    **{
        f"sft_latent {part}": functools.partial(latent_sft_loss, part=part)
        for part in ("released", "predict", "clone", "joint", "learn")
    },
}
NOISY = {"inverse": STAGES["inverse"], "joint": STAGES["joint"], "sft_latent learn": SFT_LEARN}


def gradients(name: str, batch: Any, key: jax.Array, method: Method) -> tuple[float, dict[str, np.ndarray]]:
    """The loss, and its gradient with respect to every weight of the agent, whether the stage trains it or not."""
    return by_name(_gradients(name, method), batch, key)


@functools.cache
def _gradients(name: str, method: Method) -> Callable:
    def loss(agent, batch, key):
        draw = NOISY[name].noise if name in NOISY else None
        noise = draw(batch, key, tiny.LATENT.codes) if draw else None
        return LOSSES[name](agent, batch, noise, method)[0]

    return jax.jit(jax.value_and_grad(loss))


def by_name(value_and_grad: Callable, batch: Any, key: jax.Array) -> tuple[float, dict[str, np.ndarray]]:
    """What a function of (agent, batch, key) gives, its gradients by the weights' names."""
    value, tree = value_and_grad(agent(), batch, key)
    return float(value), {path_name(path): np.asarray(x) for path, x in jax.tree_util.tree_leaves_with_path(tree)}


def belongs(weight: str, parts: Any) -> bool:
    """Whether a weight's name is, or lies under, one of `parts`."""
    return any(weight == part or weight.startswith(part + ".") for part in parts)
