"""method.md section 4 written down plainly: whole rows through the model, no cache, nothing recorded, losses of arrays.

N prompts, G samples of a prompt, P prompt length, T completion length, D width, A actions, S support slots.
"""

import jax
import jax.numpy as jnp
import numpy as np

from lam_jax.latent.agent import Agent
from lam_jax.models.inputs import Batch
from lam_jax.models.qwen2_5_vl.model import QwenVL
from lam_jax.nn import block


def _rows(backbone, prompts, tokens, mask):
    """Every sample behind its own copy of the prompt: embeddings [N * G, P + T, D], rotary, mask."""
    n, g, t = tokens.shape
    rows = jax.tree.map(lambda x: jnp.repeat(x, g, axis=0), prompts)
    last = jnp.max(jnp.where(prompts.mask[:, None], prompts.positions, 0), axis=(1, 2))
    later = last[:, None] + jnp.arange(1, t + 1, dtype=jnp.int32)[None]
    later = jnp.broadcast_to(later[:, None, None], (n, g, 3, t)).reshape(n * g, 3, t)
    x = jnp.concatenate([backbone.embed_batch(rows), backbone.embed(tokens.reshape(n * g, t))], axis=1)
    whole = jnp.concatenate([rows.mask, mask.reshape(n * g, t)], axis=1)
    return x, backbone.rotary(jnp.concatenate([rows.positions, later], axis=2)), whole


def hidden(backbone: QwenVL, prompts: Batch, tokens, mask) -> jax.Array:
    """Pre-norm states [N, G, P + T, D] of all positions."""
    tokens, mask = jnp.asarray(tokens), jnp.asarray(mask)
    x, rotary, whole = _rows(backbone, prompts, tokens, mask)
    return block.run(backbone.blocks, x, rotary, whole).reshape(*tokens.shape[:2], whole.shape[1], -1)


def chosen_from(x, prompts: Batch) -> jax.Array:
    """Of [N, G, P + T, ..] the positions [N, G, T, ..] whose output decided each token."""
    return x[:, :, prompts.tokens.shape[1] - 1 : -1]


def merge_input(agent: Agent, prompts: Batch, tokens, mask, project: bool) -> jax.Array:
    """[N, G, P + T, D]: e, or mu_P(e) on rows without an image; the backbone below the final norm has no gradient."""
    e = agent.backbone.norm(jax.lax.stop_gradient(hidden(agent.backbone, prompts, tokens, mask)))
    return jnp.where(prompts.has_image[:, None, None, None], e, agent.latent.projector.mean(e)) if project else e


def code_logits(agent: Agent, prompts: Batch, tokens, mask, project: bool = True) -> jax.Array:
    """The policy's [N, G, T, K]."""
    tokens, mask = jnp.asarray(tokens), jnp.asarray(mask)
    _, rotary, whole = _rows(agent.backbone, prompts, tokens, mask)
    x = merge_input(agent, prompts, tokens, mask, project)
    logits = agent.latent.policy(x.reshape(-1, *x.shape[2:]), rotary, whole)
    return chosen_from(logits.reshape(*x.shape[:3], -1), prompts)


def token_logits(agent: Agent, prompts: Batch, tokens, mask) -> jax.Array:
    """The backbone's own [N, G, T, V]."""
    e = agent.backbone.norm(chosen_from(hidden(agent.backbone, prompts, tokens, mask), prompts))
    return e @ agent.backbone.table.T


def world_logits(agent: Agent, x, codes, readout: str) -> jax.Array:
    """The world model's next-token logits [.., V] for merge inputs [.., D] under codes [..]."""
    c, start, world = agent.latent.codebook[codes], x, agent.latent.world.blocks
    for gate, up, down in zip(world.gate.kernel, world.up.kernel, world.down.kernel, strict=True):
        both = jnp.concatenate([x, c], axis=-1)
        own = (jax.nn.silu(both @ gate) * (both @ up)) @ down
        x = x + own
    norm = agent.backbone.norm
    out = {"merged": norm(x), "delta": norm(x) - start, "block": norm(own)}[readout]
    return out @ agent.backbone.table.T


def next_tokens(agent: Agent, x, codes, readout: str) -> jax.Array:
    """Its most likely tokens [..]."""
    return jnp.argmax(world_logits(agent, x, codes, readout), axis=-1)


def logps(logits, actions, indices=None, kept=None, temperature: float = 1.0) -> jax.Array:
    """Of actions [N, G, T], normalised over the kept ones of their sets, or over all."""
    logits = logits / temperature
    if indices is not None:
        held = jax.nn.one_hot(jnp.asarray(indices), logits.shape[-1], dtype=bool) & jnp.asarray(kept)[..., None]
        logits = jnp.where(jnp.any(held, axis=-2), logits, -1e30)
    shifted = logits - jnp.max(logits, axis=-1, keepdims=True)
    log_p = shifted - jnp.log(jnp.sum(jnp.exp(shifted), axis=-1, keepdims=True))
    return jnp.take_along_axis(log_p, jnp.asarray(actions)[..., None], axis=-1)[..., 0]


def advantages(rewards, ok, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """(advantages, active) [N, G]; a failed call counts nowhere, nor does a group with fewer than two rewards."""
    values, active = np.zeros(np.shape(rewards)), np.zeros(np.shape(rewards), bool)
    for n, (row, good) in enumerate(zip(np.asarray(rewards, float), ok, strict=True)):
        if good.sum() >= 2:
            scale = row[good].std(ddof=1) + 1e-4 if kind == "group_std" else 1.0
            values[n, good], active[n] = (row[good] - row[good].mean()) / scale, good
    return values.astype(np.float32), active


def loss(logp, old, ref, advantage, mask, *, beta, low, high, sequences, max_length=None) -> jax.Array:
    """GRPO's loss of `sequences` sequences, or Dr.GRPO's at `max_length`; arrays [N, G, T], advantage [N, G]."""
    a = jnp.asarray(advantage)[..., None]
    r, d = jnp.exp(logp - old), ref - logp
    s = -jnp.minimum(r * a, jnp.clip(r, 1 - low, 1 + high) * a) + beta * (jnp.exp(d) - d - 1)
    s = jnp.where(mask, s, 0.0)
    if max_length is not None:
        return jnp.sum(s) / (sequences * max_length)
    tokens = np.maximum(np.sum(mask, axis=-1), 1).astype(np.float32)
    return jnp.sum(jnp.sum(s, axis=-1) / tokens) / sequences


def clipped(logp, old, advantage, mask, low: float, high: float) -> tuple[float, float]:
    """Shares of the active tokens that are clipped below and above."""
    r, a = np.exp(np.asarray(logp) - old)[mask], np.broadcast_to(np.asarray(advantage)[..., None], mask.shape)[mask]
    return float(((r < 1 - low) & (a < 0)).mean()), float(((r > 1 + high) & (a > 0)).mean())
