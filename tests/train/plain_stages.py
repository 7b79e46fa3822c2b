"""The losses of stages 1 to 5 written out from method.md section 2 and method.md section 3, on whole arrays.

Of the library only the networks are called: the backbone for e, the decoder stacks of inverse dynamics and policy for
their logits. Everything from there to the loss stands here.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from tests import tiny

stop = jax.lax.stop_gradient
MARKS = (tiny.PAD, tiny.VISION_START, tiny.VISION_END, tiny.IMAGE)


@dataclasses.dataclass(frozen=True)
class Plain:
    """What a loss may be asked for beside METHOD's defaults."""

    learning: str = "merged"
    acting: str = "merged"
    after_padding: bool = False
    r_weight: float = 1e-3
    nll_weight: float = 1e-5


def states(agent, batch):
    return agent.backbone.states(batch)


def withheld(batch):
    """Image withheld: no picture, every token numbered from the first real one in one dimension."""
    first = jnp.argmax(batch.mask, axis=1)
    order = jnp.maximum(jnp.arange(batch.tokens.shape[1])[None] - first[:, None], 0)
    return batch.replace(images=None, positions=jnp.stack([order] * 3, axis=1).astype(jnp.int32))


def network(coder, agent, x, batch):
    return coder(x, agent.backbone.rotary(batch.positions), batch.mask)


def inverse_logits(agent, x, batch):
    """a_t's logits: the output at t+1, at the last position its own."""
    length = x.shape[1]
    return network(agent.latent.inverse, agent, x, batch)[:, jnp.minimum(jnp.arange(length) + 1, length - 1)]


def perceptron(net, x):
    inner = jnp.tanh(x @ net.down.kernel + net.down.bias[None, None])
    return inner @ net.up.kernel + net.up.bias[None, None]


def mean_of(projector, x):
    return perceptron(projector.mean, x)


def log_variance_of(projector, x):
    return jnp.tanh(perceptron(projector.log_variance_net, x))


def world(agent, x, code, readout):
    start, block = x, x
    layers = agent.latent.world.blocks
    for w_1, w_2, w_o in zip(layers.gate.kernel, layers.up.kernel, layers.down.kernel):
        both = jnp.concatenate([x, code], axis=-1)
        gate = both @ w_1
        block = (gate / (1 + jnp.exp(-gate)) * (both @ w_2)) @ w_o
        x = x + block
    return {
        "merged": lambda: norm(agent, x),
        "delta": lambda: norm(agent, x) - stop(start),
        "block": lambda: norm(agent, block),
    }[readout]()


def norm(agent, x):
    scale, epsilon = agent.backbone.norm.scale, agent.backbone.norm.epsilon
    return x / jnp.sqrt(jnp.mean(x * x, axis=-1, keepdims=True) + epsilon) * scale[None, None]


def mean_where(keep, values):
    return jnp.sum(jnp.where(keep, values, 0.0)) / jnp.sum(keep.astype(jnp.float32))


def is_valid(batch):
    keep = batch.mask
    for mark in MARKS:
        keep = keep & (batch.tokens != mark)
    return keep


def targets_that_count(batch, after_padding=False, response=False):
    """Over positions 0 to L-2: whether the token after each is a target."""
    keep = is_valid(batch)[:, 1:]
    keep = keep & (batch.mask[:, :-1] | after_padding)
    return keep & batch.response[:, 1:] if response else keep


def cross_entropy(logits, targets, keep):
    logps = logits - jnp.log(jnp.sum(jnp.exp(logits), axis=-1, keepdims=True))
    return mean_where(keep, -jnp.sum(logps * jax.nn.one_hot(targets, logits.shape[-1]), axis=-1))


def next_token(agent, out, batch, keep):
    return cross_entropy((out @ agent.backbone.lm_head.T)[:, :-1], batch.tokens[:, 1:], keep)


def nll(projector, x, target, batch):
    mean, log_variance = mean_of(projector, x), log_variance_of(projector, x)
    elements = (mean - stop(target)) ** 2 * jnp.exp(-log_variance) + log_variance
    return mean_where(is_valid(batch), jnp.sum(elements, axis=-1))


def inferred(agent, x, batch, noise, plain):
    """CE(next token | x, a) + weight * R, a by the straight-through choice."""
    logits = inverse_logits(agent, x, batch)
    soft = jax.nn.softmax((logits + noise) / 2.0, axis=-1)
    hard = jax.nn.one_hot(jnp.argmax(logits + noise, axis=-1), logits.shape[-1])
    choice = hard + (soft - stop(soft))
    out = world(agent, x, choice @ agent.latent.codebook, plain.learning)
    p = jax.nn.softmax(logits, axis=-1)
    r = mean_where(is_valid(batch), jnp.sum(p * jnp.log(p), axis=-1))
    return next_token(agent, out, batch, targets_that_count(batch, plain.after_padding)) + plain.r_weight * r


def gumbel(key, batch):
    return jax.random.gumbel(key, (*batch.tokens.shape, tiny.LATENT.codes))


def inverse(agent, batch, key, plain):
    return inferred(agent, stop(states(agent, batch)), batch, gumbel(key, batch), plain)


def projector(agent, batch, key, plain):
    seen, unseen = stop(states(agent, batch)), stop(states(agent, withheld(batch)))
    return nll(agent.latent.projector, unseen, seen, batch) + nll(agent.latent.back_projector, seen, unseen, batch)


def joint(agent, batch, key, plain):
    one, two = jax.random.split(key)
    loss = inverse(agent, batch.paired, one, plain) + plain.nll_weight * projector(agent, batch.paired, key, plain)
    e_text = stop(states(agent, batch.text))
    there = mean_of(agent.latent.projector, e_text)
    cycle = nll(agent.latent.back_projector, there, e_text, batch.text)
    codes = inferred(agent, stop(there), batch.text, gumbel(two, batch.text), plain)
    return loss + plain.nll_weight * cycle + codes


def cloning(agent, batch, key, plain):
    total = jnp.float32(0)
    for rows, projected in ((batch.paired, False), (batch.text, True)):
        e = states(agent, rows)
        x = stop(mean_of(agent.latent.projector, e) if projected else e)
        action = jnp.argmax(inverse_logits(agent, x, rows), axis=-1)
        total += cross_entropy(network(agent.latent.policy, agent, x, rows), action, is_valid(rows))
    return total


def sft(agent, batch, plain, codes, ce, clone, response):
    """Stage 5: next tokens under the codes of `codes`, and the policy cloned to them, each if asked for."""
    e = states(agent, batch)
    x = jnp.where(batch.has_image[:, None, None], e, mean_of(agent.latent.projector, e))
    policy = network(agent.latent.policy, agent, stop(x), batch)
    action = jnp.argmax(policy if codes == "policy" else inverse_logits(agent, stop(x), batch), axis=-1)
    keep = targets_that_count(batch, plain.after_padding, response)
    loss = jnp.float32(0)
    if ce:
        code = stop(jax.nn.one_hot(action, policy.shape[-1]) @ agent.latent.codebook)
        loss += next_token(agent, world(agent, x, code, plain.acting), batch, keep)
    if clone:
        loss += cross_entropy(policy[:, :-1], action[:, :-1], keep)
    return loss


def released(agent, batch, key, plain):
    return sft(agent, batch, plain, "policy", ce=True, clone=False, response=False)


def predict(agent, batch, key, plain):
    return sft(agent, batch, plain, "inverse", ce=True, clone=False, response=True)


def clone(agent, batch, key, plain):
    return sft(agent, batch, plain, "inverse", ce=False, clone=True, response=True)


def both(agent, batch, key, plain):
    return sft(agent, batch, plain, "inverse", ce=True, clone=True, response=True)


def learn(agent, batch, key, plain):
    """As `both`, with the straight-through choice of stages 1 and 3 in the place of a constant code."""
    e = states(agent, batch)
    x = jnp.where(batch.has_image[:, None, None], e, mean_of(agent.latent.projector, e))
    logits = inverse_logits(agent, stop(x), batch)
    noisy = logits + gumbel(key, batch)
    soft = jax.nn.softmax(noisy / 2.0, axis=-1)
    choice = jax.nn.one_hot(jnp.argmax(noisy, axis=-1), noisy.shape[-1]) + (soft - stop(soft))
    keep = targets_that_count(batch, plain.after_padding, response=True)
    out = world(agent, x, choice @ agent.latent.codebook, plain.acting)
    policy = network(agent.latent.policy, agent, stop(x), batch)
    cloned = cross_entropy(policy[:, :-1], jnp.argmax(logits, axis=-1)[:, :-1], keep)
    return next_token(agent, out, batch, keep) + cloned


def token(agent, batch, key, plain):
    keep = targets_that_count(batch, plain.after_padding, response=True)
    return next_token(agent, states(agent, batch), batch, keep)


LOSSES: dict[str, Any] = {
    "inverse": inverse,
    "projector": projector,
    "joint": joint,
    "cloning": cloning,
    "sft_latent released": released,
    "sft_latent predict": predict,
    "sft_latent clone": clone,
    "sft_latent joint": both,
    "sft_latent learn": learn,
    "sft_token": token,
}
