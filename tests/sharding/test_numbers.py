"""Every stage, both updates and rollouts give on 8 devices what they give on one (fp32).

N prompts, G samples of a prompt, T completion length.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lam_jax.nn.weight import path_name
from lam_jax.rollout.rescore import latent_logits, token_hidden
from lam_jax.rollout.sampling import sample_keys, support_logps
from tests.sharding import made
from tests.sharding.made import N, ran

CLOSE = 1e-5


def leaves(tree):
    return {path_name(path): np.asarray(x) for path, x in jax.tree_util.tree_leaves_with_path(jax.device_get(tree))}


def assert_same(name, mesh):
    (one, one_metrics), (many, many_metrics) = (ran(name, m).outputs for m in ("one", mesh))
    for metric, value in one_metrics.items():
        np.testing.assert_allclose(many_metrics[metric], value, rtol=CLOSE, atol=1e-6, err_msg=metric)
    gradients = zip(leaves(made.adam(one).mu).items(), leaves(made.adam(many).mu).values(), strict=True)
    for (leaf, expected), found in gradients:
        size = np.abs(expected).max()
        assert size > 0, leaf
        np.testing.assert_allclose(found, expected, atol=CLOSE * size, err_msg=leaf)
    for (leaf, expected), found in zip(leaves(one.trainable).items(), leaves(many.trainable).values(), strict=True):
        # Adam divides by the gradient's size: where that is rounding noise, so is the direction of the step.
        gradient = leaves(made.adam(one).mu)[leaf]
        real = np.abs(gradient) > 1e-3 * np.abs(gradient).max()
        np.testing.assert_allclose(found[real], expected[real], atol=1e-7, rtol=CLOSE, err_msg=leaf)


@pytest.mark.parametrize("name", made.IN_BRIEF)
def test_a_step_is_the_same_on_eight_devices(name):
    assert_same(name, "all")


@pytest.mark.sharding
@pytest.mark.parametrize("mesh", ["data", "all", "tensor"])
@pytest.mark.parametrize("name", [*made.STAGES, "rl_latent", "rl_hybrid", "rl_token"])
def test_every_step_is_the_same_on_every_mesh(name, mesh):
    assert_same(name, mesh)


def margins(space_name, rollout):
    """[N, G, T]: by how much each action, and each token it stands for, was the first choice."""
    *arguments, config = made.rollout_arguments(space_name, made.on("one"))
    find = {"latent": latent_margins, "hybrid": hybrid_margins}.get(space_name, token_margins)
    return jax.jit(find, static_argnums=5)(*arguments, rollout, config.sampling)


def latent_margins(space, prompts, ids, key, rollout, sampling):
    first = jnp.broadcast_to(rollout.prompt_hidden[:, None, None, -1], rollout.hidden[:, :, :1].shape)
    hidden = jnp.concatenate([first, rollout.hidden[:, :, :-1]], axis=2)
    emitted = gap(space.next_token_logits(hidden, rollout.actions, prompts.has_image))
    return jnp.minimum(drawn_margins(latent_logits(space, prompts, rollout), ids, key, rollout, sampling), emitted)


def hybrid_margins(space, prompts, ids, key, rollout, sampling):
    first = jnp.broadcast_to(rollout.prompt_hidden[:, None, None, -1], rollout.hidden[:, :, :1].shape)
    hidden = jnp.concatenate([first, rollout.hidden[:, :, :-1]], axis=2)
    logits = space.next_token_logits(hidden, rollout.actions, prompts.has_image)
    asked = jax.nn.one_hot(prompts.tokens, logits.shape[-1], dtype=bool) & prompts.mask[..., None]
    said = jnp.cumsum(jax.nn.one_hot(rollout.tokens, logits.shape[-1], dtype=jnp.int32), axis=2) > 0
    said = jnp.concatenate([jnp.zeros_like(said[:, :, :1]), said[:, :, :-1]], axis=2) | asked.any(1)[:, None, None]
    penalty = sampling.repetition_penalty
    logits = jnp.where(said, jnp.where(logits > 0, logits / penalty, logits * penalty), logits) / sampling.emission
    draw = jax.vmap(jax.vmap(lambda k: jax.random.gumbel(jax.random.fold_in(k, 1), logits.shape[-1:], jnp.float32)))
    noise = jnp.stack([draw(sample_keys(key, ids, t)) for t in range(made.T)], axis=2)
    codes = drawn_margins(latent_logits(space, prompts, rollout), ids, key, rollout, sampling)
    return jnp.minimum(codes, gap(logits + noise))


def token_margins(space, prompts, ids, key, rollout, sampling):
    backbone = space.backbone
    logits = backbone.logits(backbone.norm(token_hidden(backbone, prompts, rollout.tokens, rollout.mask)))
    return drawn_margins(logits, ids, key, rollout, sampling)


def drawn_margins(logits, ids, key, rollout, sampling):
    """From the logits and the very noise of the rollout."""
    scores = logits / sampling.scale
    if rollout.support is not None:
        scores = support_logps(logits, rollout.support, sampling.scale)
    draw = jax.vmap(jax.vmap(lambda k: jax.random.gumbel(k, scores.shape[-1:], jnp.float32)))
    noise = jnp.stack([draw(sample_keys(key, ids, t)) for t in range(made.T)], axis=2)
    return gap(scores + noise)


def gap(scores):
    best, _ = jax.lax.top_k(scores, 2)
    return best[..., 0] - best[..., 1]


def assert_same_rollout(space, mesh):
    one, many = (jax.device_get(ran(f"rollout_{space}", m).outputs) for m in ("one", mesh))
    many = jax.tree.map(lambda x: x[:N], many)
    sure = np.asarray(margins(space, ran(f"rollout_{space}", "one").outputs)) > 1e-4
    # Compared up to the first position at which rounding may decide.
    kept = np.cumprod(sure, axis=-1).astype(bool)
    assert kept.mean() > 0.9
    np.testing.assert_array_equal(many.tokens[kept], one.tokens[kept])
    np.testing.assert_array_equal(many.actions[kept], one.actions[kept])
    for field in ("logps", "logp_gap", "entropy"):
        np.testing.assert_allclose(getattr(many, field)[kept], getattr(one, field)[kept], atol=CLOSE, err_msg=field)
    np.testing.assert_allclose(many.prompt_hidden, one.prompt_hidden, atol=CLOSE * np.abs(one.prompt_hidden).max())
    np.testing.assert_allclose(many.hidden[kept], one.hidden[kept], atol=CLOSE * np.abs(one.hidden).max())


@pytest.mark.parametrize("space", ["latent", "token"])
def test_a_rollout_is_the_same_on_eight_devices(space):
    assert_same_rollout(space, "all")


@pytest.mark.sharding
@pytest.mark.parametrize("mesh", ["data", "all", "tensor"])
@pytest.mark.parametrize("space", ["latent", "hybrid", "token", "token_top_k"])
def test_rollouts_are_the_same_on_every_mesh(space, mesh):
    assert_same_rollout(space, mesh)


@pytest.mark.sharding
@pytest.mark.parametrize("mesh", ["data", "all", "tensor"])
@pytest.mark.parametrize("space", ["latent", "hybrid", "token"])
def test_forced_tokens_have_the_same_log_probabilities(space, mesh):
    found = {name: made.forced_logps(space, name)[:N] for name in ("one", mesh)}
    np.testing.assert_allclose(found[mesh], found["one"], atol=CLOSE)
    recorded = jax.device_get(ran(f"rollout_{space}", "one").outputs.logps)
    np.testing.assert_allclose(found["one"], recorded, atol=2e-5)
