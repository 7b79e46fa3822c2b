"""Qwen3-VL's ladder against committed golden files, made by `python -m tests.parity.make_golden`; no torch needed."""

from pathlib import Path

import numpy as np
import pytest

from lam_jax.nn.deepstack import DeepStack
from tests.parity.qwen3_cases import QWEN3_CASES, Qwen3Case
from tests.parity.qwen3_ladder import Qwen3Ladder

GOLDEN = Path(__file__).parent / "golden_data"


@pytest.fixture(scope="module", params=QWEN3_CASES, ids=lambda case: case.name)
def ladder(request, tmp_path_factory) -> Qwen3Ladder:
    case: Qwen3Case = request.param
    with np.load(GOLDEN / f"ladder_{case.name}.npz") as file:
        return Qwen3Ladder(case, dict(file), tmp_path_factory.mktemp(case.name))


def test_golden_inputs_are_those_of_the_case(ladder: Qwen3Ladder):
    for name, value in ladder.case.inputs().items():
        np.testing.assert_array_equal(ladder.arrays[name], value, err_msg=name)


def test_text_decoder(ladder: Qwen3Ladder):
    for rung in ladder.text_rungs():
        rung.check()


def test_vision_tower(ladder: Qwen3Ladder):
    rungs = ladder.vision_rungs() if any(ladder.case.grids) else []
    assert bool(rungs) == any(ladder.case.grids)
    for rung in rungs:
        rung.check()


def test_cached_decoding_equals_the_full_forward_pass(ladder: Qwen3Ladder):
    # Generation continues rows at their right end, so right-padded rows have nothing to decode.
    for rung in ladder.decoding_rungs() if ladder.case.padding == "left" else []:
        rung.check()


def test_gradients(ladder: Qwen3Ladder):
    rungs = ladder.gradient_rungs()
    assert len(rungs) == sum(name.startswith("grad/") for name in ladder.arrays)
    for rung in rungs:
        rung.check()


def test_without_deepstack_the_numbers_are_others(ladder: Qwen3Ladder, monkeypatch):
    """The rungs are not too coarse to see that nothing is added after the first blocks."""
    if not ladder.case.deepstack:
        return
    monkeypatch.setattr(DeepStack, "__call__", lambda self, x, layer: x)
    with pytest.raises(AssertionError, match="text/"):
        test_text_decoder(ladder)
