"""Qwen3-VL on small batches: the learned table, DeepStack in every way to run the blocks, pictures that are withheld.

N prompts, G samples of a prompt, T completion length.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lam_jax.cpu import packed_linear
from lam_jax.models.positions import image_layout
from lam_jax.nn.kv_cache import KVCache
from lam_jax.nn.layout import PLAIN, Layout
from lam_jax.nn.stack import is_apart
from lam_jax.parallel import TRAIN, use
from lam_jax.rollout.actions import next_positions
from lam_jax.rollout.rescore import sample_positions
from tests import tiny
from tests.tiny import QWEN3, Row, make_batch, words

WIDE, TALL, SMALL = (1, 6, 10), (1, 8, 4), (1, 2, 2)
N, G, T = 2, 3, 4
PROMPTS = [Row(words(3), (SMALL, TALL)), Row(words(6, seed=1), (SMALL,), seed=2)]
# Scanned, unrolled (with the last block on its own), joined and scanned.
LAYOUTS = {
    "plain": PLAIN,
    "unrolled": Layout(joined=True, unrolled=2**40),
    "scanned": Layout(joined=True),
    "packed": Layout(joined=True, unrolled=2**40, pack=packed_linear.pack),
}


@pytest.fixture(scope="module")
def backbone():
    return tiny.agent(QWEN3).backbone


@pytest.fixture(scope="module")
def states():
    return jax.jit(lambda backbone, batch: backbone.states(batch))


def test_a_patch_takes_the_four_entries_around_its_place():
    """A table of 5 x 5 over 2 x 4 patches: rows lie on its first and last row, columns 4/3 of an entry apart."""
    layout = image_layout([[(1, 2, 4)]], QWEN3.vision)
    found = dict(zip(map(tuple, layout["patch_hw"][0].tolist()), range(8), strict=True))
    index, weight = layout["table_index"][0], layout["table_weight"][0]
    corner = found[0, 0]
    assert index[corner].tolist() == [0, 1, 5, 6]
    assert weight[corner].tolist() == [1, 0, 0, 0]
    second = found[0, 1]
    assert index[second].tolist() == [1, 2, 6, 7]
    np.testing.assert_allclose(weight[second], [2 / 3, 1 / 3, 0, 0], atol=1e-6)
    last = found[1, 3]
    assert index[last].tolist() == [24] * 4
    assert weight[last].sum() == 1
    assert found[1, 2] - found[0, 2] == 2, "the four patches of a merge group are neighbours"


def test_a_table_as_large_as_the_picture_is_read_as_it_is(backbone):
    layout = image_layout([[(1, 4, 4)]], dataclasses.replace(QWEN3.vision, table_side=4), patches=20)
    tower = backbone.vision.replace(table=jnp.broadcast_to(jnp.arange(16.0)[:, None], (16, 16)))
    places = np.asarray(tower.places(*map(jnp.asarray, (layout["table_index"], layout["table_weight"]))))[0, :, 0]
    row, column = layout["patch_hw"][0].T
    np.testing.assert_allclose(places[:16], 4 * row[:16] + column[:16], atol=1e-5)
    assert not places[16:].any(), "padding takes nothing of the table"


def test_the_images_of_a_row_do_not_see_each_other(backbone):
    """Each image's embeddings and features equal those of a row that holds it alone, whatever the padding."""
    tower = jax.jit(lambda tower, images: tower(images, jnp.dtype("float32")))
    grids = (TALL, WIDE)
    both = make_batch([Row(words(2), grids), Row(words(2), (WIDE,), seed=1)], 32, patches=100, config=QWEN3)
    embeds, features = tower(backbone.vision, both.images)
    assert features.shape == (2, *embeds.shape)
    at = 0
    for grid in grids:
        size = grid[1] * grid[2]
        one = make_batch([Row(words(2), (grid,)), Row(words(2))], 32, patches=100, config=QWEN3)
        patches = jnp.zeros_like(one.images.patches).at[0, :size].set(both.images.patches[0, at : at + size])
        alone, alone_features = tower(backbone.vision, one.images.replace(patches=patches))
        group = slice(at // 4, (at + size) // 4)
        np.testing.assert_allclose(embeds[0, group], alone[0, : size // 4], atol=1e-5)
        np.testing.assert_allclose(features[:, 0, group], alone_features[:, 0, : size // 4], atol=1e-5)
        at += size


def test_padding_on_either_side_changes_nothing(backbone, states):
    rows = [Row(words(5), (TALL,)), Row(words(3, seed=1)), Row(words(9, seed=2), (SMALL,), seed=3)]
    right, left = (make_batch(rows, 19, left=left, config=QWEN3) for left in (False, True))
    one, two = states(backbone, right), states(backbone, left)
    np.testing.assert_allclose(np.asarray(one)[right.mask], np.asarray(two)[left.mask], atol=1e-5)
    assert np.isfinite(np.asarray(two)).all()


def test_a_withheld_picture_leaves_nothing_behind(backbone, states):
    """Neither embeddings nor features nor places: rows with other pictures of the same number of tokens are equal."""
    first, second = (
        make_batch([Row(words(5), (grid,), seed=seed)], 16, config=QWEN3).without_images()
        for grid, seed in (((1, 4, 8), 1), ((1, 8, 4), 2))
    )
    np.testing.assert_array_equal(states(backbone, first), states(backbone, second))


def test_features_change_states_after_pictures_and_none_before(backbone, states):
    batch = make_batch([Row((*words(3),), (SMALL,)), Row(words(4, seed=4))], 10, config=QWEN3)
    quiet = jax.tree.map(jnp.zeros_like, backbone.vision.features)
    without = backbone.replace(vision=backbone.vision.replace(features=quiet))
    one, two = np.asarray(states(backbone, batch)), np.asarray(states(without, batch))
    changed = np.abs(one - two).max(axis=-1) > 1e-4
    assert changed[0, :6].tolist() == [False, *[True] * 5], "from the picture's token on"
    assert not changed[1].any()


@pytest.mark.parametrize(("layout", "layers"), [("plain", 3), ("unrolled", 2), ("scanned", 3), ("packed", 3)])
def test_every_way_to_run_the_blocks_adds_the_same(states, layout, layers, monkeypatch):
    """Whole rows, prompts once for all samples, prefill with decode steps: one and the same states.

    With two blocks the last one has features too. "packed": decode steps by the C kernel, maps of this size too.
    """
    monkeypatch.setattr(packed_linear, "LEAST", 1)
    packed_linear.has_kernel()
    backbone = tiny.agent(dataclasses.replace(QWEN3, text=dataclasses.replace(QWEN3.text, layers=layers))).backbone
    prompts = make_batch(PROMPTS, 16, left=True, config=QWEN3)
    tokens = jnp.asarray(np.random.default_rng(5).integers(tiny.FIRST_WORD, tiny.VOCAB, (N, G, T)), jnp.int32)
    mask = jnp.ones((N, G, T), bool)

    @jax.jit
    def ways(backbone):
        with use(None, TRAIN, LAYOUTS[layout]):
            positions = sample_positions(prompts, G, T)
            last, later = backbone.continued(prompts, tokens, positions, mask)
            hidden, kv = backbone.prefill(prompts)
            cache = KVCache.create(kv, prompts.mask, G, T, is_apart(backbone.blocks))
            decoding, steps = backbone.decoding(), []
            for t in range(T):
                rotary = backbone.rotary(next_positions(prompts, jnp.int32(t), G))
                x, cache = decoding.decode(cache, tokens[:, :, t : t + 1], rotary, jnp.int32(t))
                steps.append(x[:, :, 0])
            return last, later, backbone.hidden(prompts), hidden, jnp.stack(steps, axis=2)

    last, later, whole, prefilled, decoded = ways(backbone)
    np.testing.assert_allclose(prefilled, whole, atol=1e-5)
    np.testing.assert_allclose(last, whole[:, -1], atol=1e-5)
    np.testing.assert_allclose(decoded, later, atol=1e-5)
    for sample in range(G):
        joined = prompts.replace(
            tokens=jnp.concatenate([prompts.tokens, tokens[:, sample]], axis=1),
            mask=jnp.concatenate([prompts.mask, mask[:, sample]], axis=1),
            positions=jnp.concatenate([prompts.positions, sample_positions(prompts, G, T)[:, sample]], axis=2),
        )
        np.testing.assert_allclose(backbone.norm(later[:, sample]), states(backbone, joined)[:, 16:], atol=2e-5)


@pytest.mark.parametrize("layout", ["unrolled", "scanned"])
def test_gradients_do_not_depend_on_the_layout(backbone, layout):
    batch = make_batch(PROMPTS, 16, config=QWEN3)

    def gradient(layout, remat):
        def loss(backbone):
            with use(None, TRAIN, layout):
                return jnp.sum(jnp.where(batch.mask[..., None], jnp.sin(backbone.states(batch, remat)), 0.0))

        return jax.jit(jax.grad(loss))(backbone)

    plain, other = gradient(PLAIN, False), gradient(LAYOUTS[layout], layout == "scanned")
    for (path, one), two in zip(jax.tree_util.tree_leaves_with_path(plain), jax.tree.leaves(other), strict=True):
        scale = float(jnp.abs(one).max()) or 1.0
        np.testing.assert_allclose(one / scale, two / scale, atol=2e-5, err_msg=jax.tree_util.keystr(path))
    assert float(jnp.abs(plain.vision.features.mlp.down.kernel).max()) > 0


def test_sizes_that_do_not_fit_are_refused():
    vision, text = QWEN3.vision, QWEN3.text
    with pytest.raises(ValueError, match=r"deepstack_layers \(0, 3\)"):
        dataclasses.replace(vision, deepstack_layers=(0, 3))
    with pytest.raises(ValueError, match=r"deepstack_layers \(2, 0\)"):
        dataclasses.replace(vision, deepstack_layers=(2, 0))
    with pytest.raises(ValueError, match="half the head size 16"):
        dataclasses.replace(text, mrope_sections=(1, 1, 2))
    with pytest.raises(ValueError, match="more than the 1 blocks"):
        dataclasses.replace(QWEN3, text=dataclasses.replace(text, layers=1))


def test_latent_modules_are_of_the_backbones_kind():
    agent = tiny.agent(QWEN3)
    for blocks in (agent.latent.policy.blocks, agent.latent.inverse.blocks):
        assert blocks.query_norm.scale.shape[1:] == (16,)
        assert blocks.query.bias is None
        assert blocks.query.kernel.shape[1:] == (32, 64)
    assert tiny.agent().latent.policy.blocks.query_norm is None
