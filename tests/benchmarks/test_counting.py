"""Bytes and FLOPs against numbers worked out by hand for sizes small enough to do so."""

import pytest

from benchmarks.floors import Peaks, _bytes
from benchmarks.stage_counting import STAGE_FLOPS, StageSizes
from lam_jax.latent.config import LatentConfig
from lam_jax.models.qwen2_5_vl.config import QwenConfig, TextConfig, VisionConfig
from lam_jax.models.qwen3_vl import config as qwen3
from lam_jax.train import counting
from lam_jax.train.counting import Pass

# Width 4, two heads of 2, one kv head: a block has 2*16 + 2*8 + 3*12 = 84 entries in its matrices when F = 3.
TEXT = TextConfig(10, width=4, hidden=3, layers=3, heads=2, kv_heads=1, mrope_sections=(1, 0, 0))
VISION = VisionConfig(4, hidden=2, layers=2, heads=1, full_layers=(1,), window=8, out_width=4, patch=2)
CONFIG = QwenConfig(TEXT, VISION, *range(4, 10))
LATENT = LatentConfig(codes=5, inverse_layers=1, policy_layers=2, merge_layers=2)


def test_weights_of_a_block_and_of_the_merge():
    assert counting.block_weights(TEXT) == 84
    assert counting.merge_weights(TEXT, LATENT) == 2 * (2 * 8 * 3 + 3 * 4)


def test_pairs():
    assert counting.causal_pairs(2, 3) == 2 * 6
    # Two samples of three tokens after a prompt of five: 5 + 1, 5 + 2, 5 + 3 keys each.
    assert counting.continuation_pairs(2, 5, 3) == 2 * (6 + 7 + 8)


def test_a_backward_pass_costs_twice_with_weights_and_once_without():
    work = Pass(weights=10.0, activations=4.0)
    assert work.both(trained=True) == 14 + 20 + 8
    assert work.both(trained=False) == 14 + 10 + 8


def test_decoder_and_vision():
    one = counting.decoder(TEXT, 2, tokens=6, pairs=12)
    assert one == Pass(2 * 2 * 6 * 84, 4 * 2 * 12 * 4)
    # A grid of 4 x 6 patches in windows of 4 x 4: one of 16 patches, one of 8; the merger joins four to a row of 16.
    seen = counting.vision(VISION, (4, 6), images=1)
    weights = 24 * 24 * 4 + 2 * 24 * (4 * 16 + 3 * 8) + 6 * 16 * (16 + 4)
    assert VISION.patch_size == 24
    assert seen == Pass(2 * weights, 4 * 4 * (24 * 24 + 16 * 16 + 8 * 8))


def test_a_latent_update_runs_the_policy_blocks_twice_forward_and_once_backward():
    # One prompt of 3, two samples of 2: 7 positions, 6 + 2 * (3 + 3 + 1 + 2) = 24 pairs.
    weights = 2 * 2 * 7 * 84 + 2 * 4 * 4 * 5
    activations = 4 * 2 * 24 * 4
    found = counting.latent_update(CONFIG, LATENT, prompts=1, samples=2, prompt=3, length=2)
    assert found == 4 * weights + 4 * activations


def test_a_hybrid_update_adds_the_merge_and_the_head_of_each_completion_token():
    # Four tokens through 120 weights of the merge, which train, and a table of 10 rows of 4, which does not.
    merge, table = 2 * 4 * 120, 2 * 4 * 4 * 10
    sizes = {"prompts": 1, "samples": 2, "prompt": 3, "length": 2}
    found = counting.hybrid_update(CONFIG, LATENT, **sizes) - counting.latent_update(CONFIG, LATENT, **sizes)
    assert found == 4 * merge + 3 * table
    found -= counting.hybrid_update(CONFIG, LATENT, **sizes, reference=False)
    assert found + counting.latent_update(CONFIG, LATENT, **sizes, reference=False) == merge + table


def test_the_released_token_update_runs_every_row_whole():
    # Two rows of 3 + 2: 10 positions, 2 * 15 pairs; pictures twice, forward only.
    lower, upper, attention, table = 2 * 2 * 10 * 84, 2 * 10 * 84, 4 * 30 * 4, 2 * 4 * 4 * 10
    seen = counting.vision(VISION, (4, 6), images=2).forward
    found = counting.plain_token_update(CONFIG, 1, (4, 6), prompts=1, samples=2, prompt=3, length=2)
    assert found == 2 * seen + 3 * lower + 4 * (upper + table) + (1 + 3) * 3 * attention


def test_a_rollout_runs_each_prompt_once():
    sizes = {"prompts": 1, "samples": 2, "prompt": 3, "length": 2}
    seen = counting.vision(VISION, (4, 6), images=1).forward
    token = seen + 3 * (2 * 7 * 84 + 4 * 24 * 4) + 2 * 4 * 4 * 10
    assert counting.rollout_flops(CONFIG, None, (4, 6), **sizes) == token
    # Two policy blocks more, the halves of two merge blocks that multiply states, and the logits of five codes.
    latent = token + 2 * (2 * 7 * 84 + 4 * 24 * 4) + 2 * 4 * (2 * 3 * 4 * 3) + 2 * 4 * 4 * 5
    assert counting.rollout_flops(CONFIG, LATENT, (4, 6), **sizes) == latent


def test_a_token_update_with_tables_differentiates_through_the_frozen_blocks():
    sizes = {"prompts": 1, "samples": 2, "prompt": 3, "length": 2}
    lower, upper = 2 * 2 * 7 * 84, 2 * 7 * 84
    attention = 4 * 24 * 4
    table = 2 * 4 * 4 * 10
    with_tables = counting.token_update(CONFIG, 1, True, None, **sizes)
    assert with_tables == (1 + 1 + 1) * lower + (1 + 3) * (upper + table) + 4 * 3 * attention
    without = counting.token_update(CONFIG, 1, False, None, **sizes)
    # The trunk runs once for policy and reference, the head has gradients to its inputs only.
    assert without == lower + 2 * attention + 4 * upper + 4 * attention + 3 * table


def test_bytes_of_a_decode_step():
    token = counting.decode_bytes(CONFIG, None, prompts=1, samples=2, prompt=3, length=2)
    assert token.weights == 4 * (3 * 84 + 40)
    # Keys and values of one head of 2 in three layers; the prompt once, suffixes of 1.5 on average.
    assert token.caches == 4 * (2 * 3 * 2) * (3 + 2 * 1.5)
    latent = counting.decode_bytes(CONFIG, LATENT, prompts=1, samples=2, prompt=3, length=2)
    assert latent.weights == 4 * (5 * 84 + 40 + 2 * 36 + 20)
    assert latent.caches == 4 * (2 * 5 * 2) * 6
    assert latent.total == latent.weights + latent.caches
    int8 = counting.decode_bytes(CONFIG, LATENT, 1, 2, 3, 2, blocks="int8", head="bfloat16")
    assert int8.weights == 3 * 84 + 2 * 40 + 4 * (2 * 84 + 2 * 36 + 20)
    assert int8.caches == latent.caches


def test_stages_by_hand():
    sizes = StageSizes(CONFIG, LATENT, rows=1, length=2, grid=(4, 6), trained_blocks=1)
    block, pairs = 2 * 2 * 84, 4 * 3 * 4
    states = counting.vision(VISION, (4, 6), 1).forward + 3 * block + 3 * pairs
    codes = 2 * 2 * 4 * 5
    trained = block + codes + codes + 2 * 2 * 120
    inferred = 3 * trained + 3 * pairs + 2 * (2 * 2 * 40)
    assert STAGE_FLOPS["inverse"](sizes) == states + inferred
    one_network = 2 * 2 * (4 * 2 + 2 * 4)
    assert STAGE_FLOPS["projector"](sizes) == states + 3 * (block + pairs) + 3 * 4 * one_network
    assert STAGE_FLOPS["joint"](sizes) == (
        STAGE_FLOPS["projector"](sizes) + inferred + 3 * (block + pairs) + inferred + 3 * 3 * one_network
    )
    # Without the frozen head, which stage 5 trains and counts among the backbone's; and LAYERS policy blocks.
    policy = LATENT.policy_layers * (3 * block + 3 * pairs) + 3 * codes
    learned = 3 * trained + 3 * pairs + policy
    assert STAGE_FLOPS["sft_learn"](sizes) == STAGE_FLOPS["sft_token"](sizes) + learned


def test_cache_sizes_and_the_stricter_of_two_peaks():
    assert _bytes("32768K\n") == 32 * 2**20
    assert _bytes("1M") == 2**20
    with pytest.raises(ValueError, match="'many' is not a number"):
        _bytes("many")
    assert Peaks(1.0, 8.0, "float32").best(Peaks(2.0, 7.0, "float32")) == Peaks(2.0, 8.0, "float32")


def test_another_family_of_backbones():
    """Heads wider than the width over their number; a tower that sees whole pictures, with two mergers."""
    text = qwen3.TextConfig(10, width=4, hidden=3, layers=3, heads=2, kv_heads=1, mrope_sections=(2, 1, 1), head_dim=8)
    assert counting.block_weights(text) == 2 * 4 * 16 + 2 * 4 * 8 + 3 * 4 * 3
    assert counting.decoder(text, 2, tokens=6, pairs=12).activations == 4 * 2 * 12 * 16
    vision = qwen3.VisionConfig(4, hidden=2, layers=2, heads=1, out_width=4, patch=2, deepstack_layers=(1,))
    weights = 24 * 24 * 4 + 2 * 24 * (4 * 16 + 2 * 8) + 2 * 6 * 16 * (16 + 4)
    assert counting.vision(vision, (4, 6), images=1) == Pass(2 * weights, 4 * 4 * 2 * 24 * 24)
