"""Costs of a latent decode step by part: each part alone, scanned over the steps of a whole completion.

N prompts, G samples of a prompt, T completion length, D width, K kv heads, H heads.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.session import Session
from benchmarks.workload import SAMPLING, prompts, sample_ids, spaces
from lam_jax.latent.agent import Agent
from lam_jax.nn import attention as attn
from lam_jax.nn import kv_cache
from lam_jax.nn.kv_cache import KVCache, append, decoding_layers
from lam_jax.nn.stack import fold_layers, is_apart
from lam_jax.nn.vocabulary import arg_max
from lam_jax.parallel import ROLLOUT, use
from lam_jax.parallel.choose_layout import choose_layout
from lam_jax.rollout.actions import next_positions
from lam_jax.rollout.sampling import sample, sample_keys
from lam_jax.train.counting import block_weights, decode_bytes, merge_state_weights


def components(session: Session, agent: Agent) -> None:
    """Adds `decode.part.NAME.step_s` for backbone, policy blocks, merge, vocabulary, sampling and caches.

    `backbone_products` is what of `backbone_blocks` is left without norms, rotation and attention.
    """
    work, text = session.work, session.work.config.text
    item = jnp.dtype(work.config.dtype).itemsize
    caches = decode_bytes(work.config, work.latent, work.prompts, work.samples, work.prompt, work.completion, item)
    bytes_read = {
        "backbone_blocks": text.layers * block_weights(text) * item,
        "backbone_products": text.layers * block_weights(text) * item,
        "policy_blocks": work.latent.policy_layers * block_weights(text) * item,
        "merge": merge_state_weights(text, work.latent) * item,
        "vocabulary": text.vocab_size * text.width * item,
        "sampling": None,
        "caches": caches.caches,
    }
    with use(None, ROLLOUT, choose_layout(None)):  # around all that is traced here; nothing else traces these functions
        times = session.compare(_parts(session, agent)).seconds
    for name, read in bytes_read.items():
        steps = [s / work.completion for s in times[name]]
        floor = None if read is None else (lambda p, read=read: read / p.bytes_per_s)
        session.add(f"decode.part.{name}.step_s", steps, "s", floor)


def _parts(session: Session, agent: Agent) -> dict[str, Callable[[], Any]]:
    work = session.work
    batch = prompts(work)
    space = spaces(agent)["latent"]
    lead = (work.prompts, work.samples)
    x = jax.random.normal(jax.random.key(1), (*lead, 1, work.config.text.width), work.config.dtype)
    ids = sample_ids(*lead)
    key = jax.random.key(0)

    def stack(blocks):
        """A stack of blocks on caches of one position: its weights and little else."""
        text = work.config.text
        layers, split = blocks.mlp.down.kernel.shape[0], is_apart(blocks)
        empty = jnp.zeros((layers, work.prompts, 1, text.kv_heads, text.head_dim), x.dtype)
        cache = KVCache.create((empty, empty), jnp.ones((work.prompts, 1), bool), work.samples, 1, split)
        blocks = jax.jit(decoding_layers)(blocks)
        rotary = agent.backbone.rotary(next_positions(batch, jnp.int32(0), work.samples))
        return lambda _, x: kv_cache.decode(blocks, cache, x, rotary, jnp.int32(0))[0] * 0.1

    def products(blocks):
        """The products of a stack's weights with the rows of a step, one after the other as in a block."""
        layers = jax.jit(decoding_layers)(blocks)

        def layer(x, block):
            rows = [block.joined] if block.joined is not None else [block.query, block.key, block.value]
            x = x + block.output(jnp.concatenate([part(x) for part in rows], axis=-1)[..., : block.output.inputs])
            return x + block.mlp.down(block.mlp.gate(x) * block.mlp.up(x)), None

        # Squashed, so that no number becomes too large or too small for full speed.
        return lambda _, x: jnp.tanh(fold_layers(layer, x, layers, frozen=True)[0])

    world = jax.jit(agent.latent.world.tabulated)(agent.latent.codebook)

    def merge(t, x):
        codes = jnp.zeros(lead, jnp.int32) + t % work.latent.codes
        return world(x[:, :, 0], codes)[0][:, :, None] * 0.1

    decoding = jax.jit(lambda backbone: backbone.decoding())(agent.backbone)

    def vocabulary(t, x):
        token = arg_max(decoding.logits(x[:, :, 0]))
        return x + token[..., None, None].astype(x.dtype) * 1e-9

    def sampling(t, x):
        logits = x[:, :, 0, : work.latent.codes].astype(jnp.float32)
        drawn = sample(sample_keys(key, ids, t), logits, SAMPLING["latent"])
        return x + drawn.logp[..., None, None].astype(x.dtype) * 1e-9

    def loop(body):
        return jax.jit(lambda x: jax.lax.fori_loop(0, work.completion, body, x))

    bodies = {
        "backbone_blocks": stack(space.backbone.blocks),
        "backbone_products": products(space.backbone.blocks),
        "policy_blocks": stack(agent.latent.policy.blocks),
        "merge": merge,
        "vocabulary": vocabulary,
        "sampling": sampling,
    }
    programs = {name: loop(body) for name, body in bodies.items()}
    return {name: lambda program=program: program(x) for name, program in programs.items()} | {
        "caches": _caches(session)
    }


def _caches(session: Session) -> Callable[[], Any]:
    """Writing one position and attending over prompt and suffix, for all layers of backbone and policy."""
    work, text = session.work, session.work.config.text
    layers, dtype = text.layers + work.latent.policy_layers, work.config.dtype
    prompt = jnp.ones((layers, work.prompts, work.prompt, text.kv_heads, text.head_dim), dtype)
    mask = jnp.ones(prompt.shape[1:3], bool)
    cache = KVCache.create((prompt, prompt), mask, work.samples, work.completion, split=True)
    q = jnp.ones((work.prompts, work.samples, 1, text.heads, text.head_dim), dtype)
    kv = q[:, :, :, : text.kv_heads]

    @jax.jit
    def program(cache: KVCache):
        def body(t, carry):
            cache, q = carry
            keep = jnp.broadcast_to(
                (jnp.arange(work.completion) <= t)[None, None, None], (*q.shape[:3], work.completion)
            )

            keys, values = [], []
            for prompt_key, prompt_value, key, value in zip(
                cache.prompt_key, cache.prompt_value, cache.key, cache.value, strict=True
            ):
                key, value = append(key, value, kv, kv, t)
                shared = attn.cached_shared_part(q, prompt_key, prompt_value, cache.prompt_mask)
                q = attn.finish(attn.merge(shared, attn.cached_part(q, key, value, keep, text.kv_heads)), q.dtype)
                keys.append(key)
                values.append(value)
            return cache.replace(key=tuple(keys), value=tuple(values)), q

        return jax.lax.fori_loop(0, work.completion, body, (cache, q))[1]

    return lambda: program(cache)
