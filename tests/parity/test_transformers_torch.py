"""The ladder against transformers and torch themselves: the committed cases, and more of them. `make parity`."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from tests.parity.ladder import Ladder
from tests.parity.ladder_cases import CASES, LadderCase
from tests.parity.qwen3_cases import QWEN3_CASES, drawn_case
from tests.parity.qwen3_ladder import Qwen3Ladder
from tests.parity.test_ladder import GOLDEN
from tests.parity.transformers_reference import reference

pytestmark = pytest.mark.parity

LEFT, RIGHT, TEXT = CASES
MORE = (
    dataclasses.replace(LEFT, name="untied_ungrouped", kv_heads=4, tied=False, seed=11),
    dataclasses.replace(LEFT, name="every_layer_windowed", full_layers=(), window=28, seed=12),
    dataclasses.replace(LEFT, name="every_layer_full", full_layers=(0, 1, 2), kv_heads=1, seed=13),
    dataclasses.replace(LEFT, name="wide", width=96, heads=6, kv_heads=3, sections=(2, 3, 3), layers=4, seed=14),
    dataclasses.replace(RIGHT, name="right_grouped_tied", kv_heads=1, tied=True, window=112, seed=15),
    dataclasses.replace(
        RIGHT,
        name="three_images_in_a_row",
        rows=((1, (1, 2, 2), (1, 10, 2), 1, (1, 6, 6), 2), (5, (1, 2, 14), 4)),
        padding="left",
        seed=16,
    ),
    dataclasses.replace(TEXT, name="text_right", padding="right", tied=True, seed=17),
)
LEFT3, RIGHT3, TEXT3 = QWEN3_CASES
MORE3 = (
    dataclasses.replace(LEFT3, name="qwen3_untied_ungrouped", kv_heads=4, tied=False, seed=31),
    dataclasses.replace(LEFT3, name="qwen3_features_for_every_block", deepstack=(0, 1, 3), seed=32),
    dataclasses.replace(LEFT3, name="qwen3_narrow_heads", heads=6, kv_heads=3, head_dim=8, sections=(2, 1, 1), seed=33),
    dataclasses.replace(RIGHT3, name="qwen3_real_patches", patch=16, table_side=48, deepstack=(2,), seed=34),
    dataclasses.replace(
        RIGHT3,
        name="qwen3_three_images_in_a_row",
        rows=((1, (1, 2, 2), (1, 10, 2), 1, (1, 6, 6), 2), (5, (1, 2, 14), 4)),
        padding="left",
        seed=35,
    ),
    dataclasses.replace(RIGHT3, name="qwen3_pictures_without_deepstack", deepstack=(), tied=True, seed=36),
    dataclasses.replace(TEXT3, name="qwen3_text_right", padding="right", tied=True, seed=37),
)
DRAWN = tuple(drawn_case(seed) for seed in range(6))


@pytest.mark.parametrize("case", [*CASES, *QWEN3_CASES], ids=lambda case: case.name)
def test_committed_files_are_what_transformers_computes_today(case: LadderCase):
    fresh = reference(case)
    with np.load(GOLDEN / f"ladder_{case.name}.npz") as file:
        assert set(file.files) == set(fresh)
        for name in file.files:
            # Torch rounds by the processor's vector width; sums that cancel are off by a share of what they sum.
            atol = 1e-5 * max(1.0, float(np.abs(fresh[name]).max(initial=0)))
            np.testing.assert_allclose(file[name], fresh[name], rtol=1e-4, atol=atol, err_msg=name)


@pytest.mark.parametrize("case", [*MORE, *MORE3, *DRAWN], ids=lambda case: case.name)
def test_every_rung(case: LadderCase, tmp_path: Path):
    ladder = (Qwen3Ladder if case.model_type == "qwen3_vl" else Ladder)(case, reference(case), tmp_path)
    rungs = ladder.text_rungs() + ladder.gradient_rungs()
    rungs += ladder.vision_rungs() if any(case.grids) else []
    rungs += ladder.decoding_rungs() if case.padding == "left" else []
    for rung in rungs:
        rung.check()
