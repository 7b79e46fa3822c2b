"""What the codes do on held-out rows: health, cloning accuracy, and the causal test (method.md section 6).

Legend: B rows, L length, K codes, V vocabulary.
"""

import functools
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from lam_jax.latent.agent import Agent, Reading
from lam_jax.latent.health import Health, divergence, health
from lam_jax.models.inputs import Batch
from lam_jax.nn.layout import Layout
from lam_jax.parallel import TRAIN, place, replicate, use
from lam_jax.parallel.choose_layout import statics
from lam_jax.parallel.multihost import to_host
from lam_jax.train.stages.inverse_pass import frozen_states, inverse_logits


@functools.partial(jax.jit, static_argnames=("reading", "mesh", "layout"))
def _probe(
    agent: Agent, batch: Batch, key: jax.Array, reading: Reading, mesh: Mesh | None, layout: Layout
) -> tuple[Health, dict[str, jax.Array]]:
    with use(mesh, TRAIN, layout):
        return _figures(agent, batch, key, reading)


def _figures(agent: Agent, batch: Batch, key: jax.Array, reading: Reading) -> tuple[Health, dict[str, jax.Array]]:
    x = agent.action_input(frozen_states(agent, batch), batch.has_image, reading)
    target = inverse_logits(agent, x, batch)
    policy = agent.latent.policy(x, agent.backbone.rotary(batch.positions), batch.mask)
    inferred, chosen = jnp.argmax(target, axis=-1), jnp.argmax(policy, axis=-1)
    random = jax.random.randint(key, chosen.shape, 0, agent.latent.config.codes)

    def logits(action):
        return agent.backbone.logits(agent.read(x, agent.latent.look_up(action), reading))

    moved = divergence(logits(chosen), logits(random))
    weight = batch.valid.astype(jnp.float32)

    def mean(values):
        return jnp.sum(values * weight) / jnp.maximum(jnp.sum(weight), 1.0)

    found = health(target, batch.valid)
    return found, {
        "random_action_kl": mean(moved),
        "cloning_accuracy": mean((inferred == chosen).astype(jnp.float32)),
        "policy_used_share": jnp.mean(jnp.zeros(found.usage.shape).at[chosen.reshape(-1)].add(weight.reshape(-1)) > 0),
    }


def probe_codes(agent: Agent, batches: Iterable[Batch], key: jax.Array, reading: Reading) -> dict[str, Any]:
    """Means over batches of the health scalars and causal figures, and the usage histogram under `usage`.

    `used_share` and `dead_codes` count codes over all batches together.
    """
    rows, usage, static = [], [], statics(agent)
    mesh = static["mesh"]
    for index, batch in enumerate(batches):
        own_key = replicate(jax.random.fold_in(key, index), mesh)
        found, figures = _probe(agent, place(batch, mesh, TRAIN), own_key, reading, **static)
        rows.append({k: float(v) for k, v in (found.scalars() | figures).items()})
        usage.append(to_host(found.usage))
    out: dict[str, Any] = {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
    total = np.mean(usage, axis=0)
    used = int((total > 0).sum())
    return out | {
        "used_share": used / len(total),
        "dead_codes": len(total) - used,
        "top_share": float(total.max()),
        "usage": total.tolist(),
    }
