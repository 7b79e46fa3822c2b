"""The backbone on small batches: vision windows, images in rows, positions, padding. P patches, W windows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lam_jax.models.positions import image_layout, mrope_positions
from lam_jax.models.qwen2_5_vl.vision import Windows
from lam_jax.nn.attention import attention
from tests import tiny
from tests.tiny import CONFIG, Row, make_batch, words

WIDE, TALL, SMALL = (1, 6, 10), (1, 8, 4), (1, 2, 2)


@pytest.fixture(scope="module")
def backbone():
    return tiny.agent().backbone


@pytest.fixture(scope="module")
def states():
    return jax.jit(lambda backbone, batch: backbone.states(batch))


@pytest.mark.parametrize("grid", [WIDE, TALL, SMALL])
def test_windowed_attention_equals_a_mask_over_all_pairs(grid):
    """A window is 4 x 4 patches; 6 x 10 and 2 x 2 leave smaller ones at the edges. Padding patches join none."""
    _, height, width = grid
    count = height * width
    patch_hw, _, slots = image_layout([[grid]], CONFIG.vision, patches=count + 4, windows=8).values()
    home = patch_hw[0, :count] // 4
    keep = (home[:, None] == home[None, :]).all(axis=-1)[None]
    q, k, v = jnp.asarray(np.random.default_rng(0).normal(size=(3, 1, count + 4, 2, 8)).astype(np.float32))
    ours = Windows.create(jnp.asarray(slots), count + 4).attention(q, k, v)
    expected = attention(q[:, :count], k[:, :count], v[:, :count], jnp.asarray(keep))
    np.testing.assert_allclose(ours[:, :count], expected, atol=1e-6)
    assert np.isfinite(np.asarray(ours)).all()


def test_the_images_of_a_row_do_not_see_each_other(backbone):
    """Each image's embeddings equal those of a row that holds it alone, whatever the padding."""
    tower = jax.jit(lambda tower, images: tower(images, jnp.dtype("float32")))
    grids = (TALL, WIDE)
    sizes = [h * w for _, h, w in grids]
    both = make_batch([Row(words(2), grids), Row(words(2), (WIDE,), seed=1)], 32, patches=100, windows=10)
    together = tower(backbone.vision, both.images)
    at = 0
    for grid, size in zip(grids, sizes, strict=True):
        one = make_batch([Row(words(2), (grid,)), Row(words(2))], 32, patches=100, windows=10)
        patches = jnp.zeros_like(one.images.patches).at[0, :size].set(both.images.patches[0, at : at + size])
        alone = tower(backbone.vision, one.images.replace(patches=patches))
        group = slice(at // 4, (at + size) // 4)
        np.testing.assert_allclose(together[0, group], alone[0, : size // 4], atol=1e-5)
        at += size


def test_image_tokens_take_the_embeddings_of_their_own_row_in_order(backbone):
    batch = make_batch([Row(words(3), (SMALL, TALL)), Row(words(5)), Row(words(4), (SMALL,), seed=2)], 16)
    embedded, seen = jax.jit(lambda b, x: (b.embed_batch(x), b.vision(x.images, jnp.dtype("float32"))))(backbone, batch)
    plain = backbone.embedding[batch.tokens]
    is_image = np.asarray(batch.tokens == tiny.IMAGE)
    np.testing.assert_array_equal(np.asarray(embedded)[~is_image], np.asarray(plain)[~is_image])
    for row, count in ((0, 1 + 8), (2, 1)):
        np.testing.assert_allclose(embedded[row][is_image[row]], seen[row, :count], atol=1e-6)


def test_padding_on_either_side_changes_nothing(backbone, states):
    """Rows of several lengths with and without an image: the states of the real tokens are the same."""
    rows = [Row(words(5), (TALL,)), Row(words(3, seed=1)), Row(words(9, seed=2), (SMALL,), seed=3)]
    right, left = (make_batch(rows, 19, left=left) for left in (False, True))
    one, two = states(backbone, right), states(backbone, left)
    np.testing.assert_allclose(np.asarray(one)[right.mask], np.asarray(two)[left.mask], atol=1e-5)
    assert np.isfinite(np.asarray(two)).all()


def test_withheld_images_leave_placeholders_and_plain_positions(backbone, states):
    batch = make_batch([Row(words(3), (SMALL,)), Row(words(4))], 7, left=True)
    withheld = batch.without_images()
    assert withheld.positions[0].tolist() == [[1, 0, 1, 2, 3, 4, 5]] * 3
    assert withheld.positions[1].tolist() == [[1, 1, 1, 0, 1, 2, 3]] * 3
    assert withheld.has_image.tolist() == [True, False]
    x = jax.jit(lambda b, x: b.embed_batch(x))(backbone, withheld)
    np.testing.assert_array_equal(x, backbone.embedding[batch.tokens])
    np.testing.assert_allclose(
        np.asarray(states(backbone, batch))[1, 3:], np.asarray(states(backbone, withheld))[1, 3:], atol=1e-5
    )


def test_positions_by_hand():
    """An image of 2 x 4 patches is 1 x 2 tokens; text goes on after its largest position."""
    row = Row((9, 9), ((1, 2, 4),))
    got = mrope_positions(np.array([row.tokens]), np.ones((1, 6), bool), [row.grids], CONFIG)
    assert got.tolist() == [[[0, 1, 1, 3, 4, 5], [0, 1, 1, 3, 4, 5], [0, 1, 2, 3, 4, 5]]]


def test_image_tokens_that_do_not_match_the_grids_are_an_error():
    row = Row(words(2), (SMALL,))
    with pytest.raises(ValueError, match=r"Row 0 holds 1 image tokens.* need 8"):
        mrope_positions(np.array([row.tokens]), np.ones((1, 5), bool), [[TALL]], CONFIG)
    with pytest.raises(ValueError, match=r"Row 1 has an image grid \(1, 3, 2\)"):
        image_layout([[], [(1, 3, 2)]], CONFIG.vision)
    with pytest.raises(ValueError, match="room for 16"):
        image_layout([[WIDE]], CONFIG.vision, patches=16, windows=4)


def test_padding_embeddings_are_not_trained(backbone):
    batch = make_batch([Row(words(2)), Row(words(3))], 4)
    gradient = jax.jit(jax.grad(lambda e: backbone.replace(embedding=e).embed(batch.tokens).sum()))(backbone.embedding)
    assert not gradient[tiny.PAD].any()
    assert gradient[batch.tokens[0, 0]].all()


def test_valid_tokens(backbone):
    batch = make_batch([Row(words(3), (SMALL,)), Row(words(4))], 7)
    np.testing.assert_array_equal(backbone.valid_tokens(batch.tokens, batch.mask), batch.valid)
