"""Log-probabilities of recorded rollouts under current weights: what the policy update differentiates.

Latent: from the recorded hidden states through the policy blocks alone, no backbone, no vision tower, no vocabulary.
Token: through the backbone with the prompt part once per prompt and chunked log-probabilities.
Legend: N prompts, G samples of a prompt, P prompt length, T completion length, D width, K codes.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from lam_jax.losses import token_logps
from lam_jax.models.inputs import Batch
from lam_jax.models.qwen2_5_vl.model import QwenVL
from lam_jax.nn import block
from lam_jax.nn.stack import Remat
from lam_jax.rollout.actions import LatentActions
from lam_jax.rollout.engine import Rollout
from lam_jax.rollout.sampling import SamplingConfig, action_logps, entropy


def sample_positions(prompts: Batch, samples: int, length: int) -> Int[Array, "N G 3 T"]:
    """M-RoPE positions of all completion tokens."""
    start = jnp.max(jnp.where(prompts.mask[:, None, :], prompts.positions, 0), axis=(1, 2)) + 1
    positions = start[:, None] + jnp.arange(length, dtype=jnp.int32)[None]
    return jnp.broadcast_to(positions[:, None, None, :], (start.shape[0], samples, 3, length))


def _shift(first: Array, later: Array) -> Array:
    """[N, ..] for the first action and [N, G, T, ..] after each token -> what each action was chosen from."""
    first = jnp.broadcast_to(first[:, None, None], (*later.shape[:2], 1, *later.shape[3:]))
    return jnp.concatenate([first, later[:, :, :-1]], axis=2)


def latent_logits(
    space: LatentActions, prompts: Batch, rollout: Rollout, remat: Remat = False
) -> Float[Array, "N G T K"]:
    """The policy's code logits for every recorded action."""
    backbone = space.backbone
    samples, length = rollout.tokens.shape[1:]
    states = [backbone.norm(jax.lax.stop_gradient(x)) for x in (rollout.prompt_hidden, rollout.hidden)]
    prompt, sample = (space.agent.action_input(x, prompts.has_image, space.reading) for x in states)
    rotaries = (
        backbone.rotary(prompts.positions),
        backbone.rotary(sample_positions(prompts, samples, length)),
    )
    first, later = space.agent.latent.policy.shared(prompt, sample, rotaries, (prompts.mask, rollout.mask), remat)
    return _shift(first, later)


def latent_logps(
    space: LatentActions, prompts: Batch, rollout: Rollout, sampling: SamplingConfig, remat: Remat = False
) -> tuple[Float[Array, "N G T"], Float[Array, "N G T"]]:
    """Log-probabilities of the recorded codes over the recorded supports, and entropies."""
    logits = latent_logits(space, prompts, rollout, remat)
    logps = action_logps(logits, rollout.actions, rollout.support, sampling.scale)
    return logps, jax.lax.stop_gradient(entropy(logits, rollout.support, sampling.scale))


def token_hidden(
    backbone: QwenVL, prompts: Batch, tokens: Int[Array, "N G T"], mask: Array, remat: Remat = False
) -> Float[Array, "N G T D"]:
    """Pre-norm states from which each completion token was chosen; the vision tower is not differentiated."""
    frozen = backbone.replace(vision=jax.lax.stop_gradient(backbone.vision))
    prompt = frozen.embed_batch(prompts, frozen=True)
    sample = frozen.embed(tokens)
    positions = sample_positions(prompts, *tokens.shape[1:])
    prompt, sample = block.run_shared(
        backbone.blocks,
        prompt,
        sample,
        backbone.rotary(prompts.positions),
        backbone.rotary(positions),
        prompts.mask,
        mask,
        remat=remat,
    )
    return _shift(prompt, sample)


def token_space_logps(
    backbone: QwenVL, prompts: Batch, rollout: Rollout, sampling: SamplingConfig, remat: Remat = False
) -> tuple[Float[Array, "N G T"], Float[Array, "N G T"]]:
    """Log-probabilities of the recorded tokens and entropies.

    Without truncation in chunks over the vocabulary; with a support, over that support only.

    Raises:
        ValueError: a repetition penalty, whose distribution the loss does not score.
    """
    if sampling.repetition_penalty != 1.0 and sampling.renormalise:
        raise ValueError(
            f"The token update scores the sampled distribution, but repetition_penalty is "
            f"{sampling.repetition_penalty}: set it to 1, or choose SamplingConfig.official() to score without it."
        )
    states = backbone.norm(token_hidden(backbone, prompts, rollout.tokens, rollout.mask, remat))
    if rollout.support is None:
        return token_logps(states, backbone.table, rollout.tokens, sampling.scale, want_entropy=True)
    logits = backbone.logits(states)
    logps = action_logps(logits, rollout.actions, rollout.support, sampling.scale)
    return logps, jax.lax.stop_gradient(entropy(logits, rollout.support, sampling.scale))
