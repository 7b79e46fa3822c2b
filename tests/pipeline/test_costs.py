"""What RL had cost by each step, with numbers worked out by hand."""

import dataclasses

import numpy as np
import pytest

from lam_jax.latent.config import LatentConfig
from lam_jax.models.inputs import Batch, Images
from lam_jax.models.qwen2_5_vl.config import QwenConfig, TextConfig, VisionConfig
from lam_jax.pipeline.costs import PromptSize, played, rl_cost, step_flops
from lam_jax.rl import ALGORITHMS
from lam_jax.rollout.engine import RolloutConfig
from lam_jax.train.method import Method
from lam_jax.train.rl_config import RLConfig
from lam_jax.train.spaces import LATENT, TOKEN

# Width 4, two heads of 2, one kv head, F = 3: a block has 2*16 + 2*8 + 3*12 = 84 entries in its matrices.
TEXT = TextConfig(10, width=4, hidden=3, layers=3, heads=2, kv_heads=1, mrope_sections=(1, 0, 0))
VISION = VisionConfig(4, hidden=2, layers=2, heads=1, full_layers=(1,), window=8, out_width=4, patch=2)
MODEL = QwenConfig(TEXT, VISION, *range(4, 10))
CODES = LatentConfig(codes=5, inverse_layers=1, policy_layers=2, merge_layers=2)
PLAIN = dataclasses.replace(ALGORITHMS["grpo"], beta=0.0)
KL = dataclasses.replace(ALGORITHMS["grpo"], beta=0.1)
# One prompt of 3, two samples of 2: 7 positions, 6 + 2 * (3 + 3 + 1 + 2) = 24 pairs of query and key.
BLOCK, PAIRS = 2 * 7 * 84, 4 * 24 * 4
HEAD = 2 * 4 * 4 * 10
TOKEN_ROLLOUT = 3 * (BLOCK + PAIRS) + HEAD
LATENT_ROLLOUT = TOKEN_ROLLOUT + 2 * (BLOCK + PAIRS) + 2 * 4 * (2 * 3 * 4 * 3) + 2 * 4 * 4 * 5
POLICY = 2 * BLOCK + 2 * 4 * 4 * 5


def config(space, algorithm, epochs=1):
    return RLConfig(algorithm, space, prompts=1, rollout=RolloutConfig(samples=2, length=2), epochs=epochs)


def test_a_latent_step_is_its_rollouts_and_updates_of_the_policy_alone():
    prompt = PromptSize(3.0, (), 0.0)
    flops = step_flops(MODEL, CODES, Method(), config(LATENT, PLAIN), prompt)
    update = 3 * POLICY + 3 * 2 * PAIRS
    assert flops(2, 1) == LATENT_ROLLOUT + update
    assert flops(2, 3) == 3 * LATENT_ROLLOUT + update, "refills are rollouts, and updated on once"
    twice = step_flops(MODEL, CODES, Method(), config(LATENT, PLAIN, epochs=2), prompt)
    assert twice(2, 1) == LATENT_ROLLOUT + 2 * update
    with_kl = step_flops(MODEL, CODES, Method(), config(LATENT, KL), prompt)
    assert with_kl(2, 1) - flops(2, 1) == POLICY + 2 * PAIRS, "the reference, forward"


def test_a_token_step_differentiates_through_all_of_the_backbone_and_sees_its_pictures_twice():
    """One of three blocks trains, and the tied tables: below it gradients go to the inputs only."""
    method = Method(sft_blocks=1)
    flops = step_flops(MODEL, CODES, method, config(TOKEN, PLAIN), PromptSize(3.0, (), 0.0))
    update = 2 * 2 * BLOCK + 3 * BLOCK + 3 * HEAD + 3 * 3 * PAIRS
    assert flops(2, 1) == TOKEN_ROLLOUT + update
    weights = 24 * 24 * 4 + 2 * 24 * (4 * 16 + 3 * 8) + 6 * 16 * (16 + 4)
    seen = 2 * weights + 4 * 4 * (24 * 24 + 16 * 16 + 8 * 8)
    half = step_flops(MODEL, CODES, method, config(TOKEN, PLAIN), PromptSize(3.0, ((4, 6),), 0.5))
    assert half(2, 1) - flops(2, 1) == pytest.approx(2 * 0.5 * seen), "half of the prompts have a picture"


def test_costs_add_up_over_the_logged_steps_and_evaluations_cost_nothing():
    records = [
        {"step": 0, "eval_score": 0.5, "eval_s": 9.0},
        {"step": 1, "rl_step_s": 2.0, "length_mean": 3.0, "refills": 0.0},
        {"step": 2, "rl_step_s": 1.5, "length_mean": 4.0, "refills": 2.0},
        {"step": 2, "eval_score": 0.5, "eval_s": 9.0},
        {"step": 3, "rl_step_s": 1.0, "length_mean": 2.0},
    ]
    found = rl_cost(records, config(LATENT, PLAIN), lambda length, rollouts: 10 * length + rollouts)
    assert found == {
        "steps": [1, 2, 3],
        "samples": [2.0, 8.0, 10.0],
        "seconds": [2.0, 3.5, 4.5],
        "flops": [31.0, 74.0, 95.0],
    }


def test_the_size_of_prompts_is_read_from_a_batch():
    """Rows of 4 and 2 tokens and one of padding; a picture of 2 x 4 patches in the first row."""
    mask = np.arange(4) < np.array([[4], [2], [0]])
    places = np.full((3, 8, 2), -1, np.int32)
    places[0] = [(i // 4, i % 4) for i in range(8)]
    ids = np.full((3, 8), -1, np.int32)
    ids[0] = 0
    images = Images(np.zeros((3, 8, 24), np.float32), places, ids, np.full((3, 1, 16), -1, np.int32))
    zeros = np.zeros((3, 4), np.int32)
    batch = Batch(zeros, mask, mask, mask & False, np.ones((3, 3, 4), np.int32), np.array([True, False, False]), images)
    assert PromptSize.of(batch) == PromptSize(3.0, ((2, 4),), 0.5)
    assert PromptSize.of(batch.replace(images=None)) == PromptSize(3.0, (), 0.0)


def test_a_step_of_games_costs_what_its_answers_do_one_by_one():
    """Two games of one and of three answers: four prompts of one sample each, and none shared."""
    games = dataclasses.replace(config(TOKEN, PLAIN), turns=3)
    first = PromptSize(9.0, ((2, 2),), 1.0)
    records = [{"turns_mean": 1.5, "prompt_tokens": 2.0, "prompt_pictures": 1.0}, {"loss": 1.0}]
    records += [{"turns_mean": 2.5, "prompt_tokens": 4.0, "prompt_pictures": 2.0}]
    size, turns = played(first, records)
    assert (size, turns) == (PromptSize(3.0, ((2, 2),), 1.5), 2.0)
    alone = RLConfig(PLAIN, TOKEN, prompts=4, rollout=RolloutConfig(samples=1, length=2))
    expected = step_flops(MODEL, CODES, Method(), alone, size)
    # Four tokens a game are two an answer.
    assert step_flops(MODEL, CODES, Method(), games, size, turns)(4.0, 1) == expected(2.0, 1)
