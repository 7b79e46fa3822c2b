"""Counted costs of the repairs: what is dearer than what, and one figure by hand."""

import pytest

from benchmarks.repairs import GRID, LENGTH, RL, ROWS, rl_rows, sft_rows
from lam_jax.latent.config import LATENT_PRESETS
from lam_jax.models.families import PRESETS

NAME = "qwen2_5_vl_3b"


def test_what_the_spaces_cost():
    rows = {
        row[0]: [float(cell.replace(",", "")) for cell in row[1:]]
        for row in rl_rows(PRESETS[NAME], LATENT_PRESETS[NAME])
    }
    token, latent, hybrid = (rows[name] for name in ("token", "latent, 128 codes", "hybrid, 128 codes"))
    assert latent[1] < hybrid[1] < token[1]
    assert latent[0] == hybrid[0] > token[0]
    # By hand, in bfloat16: 36 blocks, the table, and keys and values of 36 layers with 2 heads of 128.
    blocks = 36 * (2 * 2048 * 2048 + 2 * 2048 * 256 + 3 * 2048 * 11008)
    positions = RL["prompts"] * (RL["prompt"] + RL["samples"] * (RL["length"] + 1) / 2)
    caches = 2 * 36 * 256 * positions
    assert token[2] == round(2 * (blocks + 151936 * 2048 + caches) / 1e9, 2)
    # int8: a byte less of each matrix that is held so; in the hybrid space the head is not.
    assert latent[2] - rows["latent, 128 codes, int8"][2] == pytest.approx((blocks + 151936 * 2048) / 1e9, abs=0.01)
    assert latent[2] - rows["hybrid, 128 codes, int8"][2] == pytest.approx(blocks / 1e9, abs=0.01)
    # Hybrid RL trains two merge blocks and the codebook besides.
    assert hybrid[3] - latent[3] == round(2 * 5 * 2048 * 11008 / 1e6 + 128 * 2048 / 1e6)


def test_what_stage_5_costs():
    token, joint, learn = (float(row[1]) for row in sft_rows(PRESETS[NAME], LATENT_PRESETS[NAME]))
    assert token < joint < learn
    assert (ROWS, LENGTH, GRID) == (4, 2048, (20, 30))
