"""Log-probabilities of recorded rollouts under current weights: what the policy update differentiates.

Latent: from the recorded hidden states through the policy blocks alone, no backbone, no vision tower, no vocabulary.
Hybrid: from those too, through policy, world model and `lm_head` in chunks; no block of the backbone.
Token: through the backbone with the prompt part once per prompt and chunked log-probabilities.
Legend: N prompts, G samples of a prompt, P prompt length, T completion length, D width, K codes.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from lam_jax.losses import token_logps
from lam_jax.models.backbone import Backbone
from lam_jax.models.inputs import Batch
from lam_jax.nn.stack import Remat, checkpointed
from lam_jax.nn.vocabulary import first_places
from lam_jax.rollout.actions import HybridActions, LatentActions
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


def hybrid_logps(
    space: HybridActions, prompts: Batch, rollout: Rollout, sampling: SamplingConfig, remat: Remat = False
) -> tuple[Float[Array, "N G T"], Float[Array, "N G T"], Float[Array, "N G T"]]:
    """Log-probabilities of the recorded codes and tokens together, entropies of the codes and of the tokens under them.

    Of the world model's weights, codebook included, they have gradients, of `lm_head` only where it trains.
    """
    logps, spread = latent_logps(space, prompts, rollout, sampling, remat)
    if sampling.emission == 0:
        return logps, spread, jnp.zeros_like(spread)
    emitted, emitted_spread = emission_logps(space, prompts, rollout, sampling, remat)
    return logps + emitted, spread, emitted_spread


def emission_logps(
    space: HybridActions, prompts: Batch, rollout: Rollout, sampling: SamplingConfig, remat: Remat = False
) -> tuple[Float[Array, "N G T"], Float[Array, "N G T"]]:
    """Log-probabilities of the recorded tokens under the recorded codes, and entropies, in chunks over the vocabulary.

    At the temperature `sampling.emission` and with the repetition penalty; without it where the settings do not
    renormalise.
    """
    agent, backbone = space.agent, space.backbone
    hidden = jax.lax.stop_gradient(_shift(rollout.prompt_hidden[:, -1], rollout.hidden))
    x = agent.action_input(backbone.norm(hidden), prompts.has_image, space.reading)
    # A product with one-hot rows: the gradient of a look-up would be summed up in the compute dtype.
    codes = agent.latent.code(jax.nn.one_hot(rollout.actions, agent.latent.config.codes, dtype=x.dtype))
    read = checkpointed(lambda agent, x, codes: agent.read(x, codes, space.reading), remat)
    first = None
    if sampling.repetition_penalty != 1.0 and sampling.renormalise:
        first = first_places(prompts.tokens, prompts.mask, rollout.tokens, rollout.mask, agent.table.shape[0])
    return token_logps(
        read(agent, x, codes),
        agent.table,
        rollout.tokens,
        sampling.emission,
        want_entropy=True,
        first=first,
        penalty=sampling.repetition_penalty,
    )


def token_hidden(
    backbone: Backbone, prompts: Batch, tokens: Int[Array, "N G T"], mask: Array, remat: Remat = False
) -> Float[Array, "N G T D"]:
    """Pre-norm states from which each completion token was chosen; the vision tower is not differentiated."""
    positions = sample_positions(prompts, *tokens.shape[1:])
    return _shift(*backbone.continued(prompts, tokens, positions, mask, remat))


def token_space_logps(
    backbone: Backbone, prompts: Batch, rollout: Rollout, sampling: SamplingConfig, remat: Remat = False
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
