"""The ladder against committed golden files, made by `python -m tests.parity.make_golden`; no torch needed."""

from pathlib import Path

import numpy as np
import pytest

from tests.parity.ladder import Ladder
from tests.parity.ladder_cases import CASES, LadderCase

GOLDEN = Path(__file__).parent / "golden_data"


@pytest.fixture(scope="module", params=CASES, ids=lambda case: case.name)
def ladder(request, tmp_path_factory) -> Ladder:
    case: LadderCase = request.param
    with np.load(GOLDEN / f"ladder_{case.name}.npz") as file:
        return Ladder(case, dict(file), tmp_path_factory.mktemp(case.name))


def test_golden_inputs_are_those_of_the_case(ladder: Ladder):
    for name, value in ladder.case.inputs().items():
        np.testing.assert_array_equal(ladder.arrays[name], value, err_msg=name)


def test_text_decoder(ladder: Ladder):
    for rung in ladder.text_rungs():
        rung.check()


def test_vision_tower(ladder: Ladder):
    rungs = ladder.vision_rungs() if any(ladder.case.grids) else []
    assert bool(rungs) == any(ladder.case.grids)
    for rung in rungs:
        rung.check()


def test_cached_decoding_equals_the_full_forward_pass(ladder: Ladder):
    # Generation continues rows at their right end, so right-padded rows have nothing to decode.
    for rung in ladder.decoding_rungs() if ladder.case.padding == "left" else []:
        rung.check()


def test_gradients(ladder: Ladder):
    rungs = ladder.gradient_rungs()
    assert len(rungs) == sum(name.startswith("grad/") for name in ladder.arrays)
    for rung in rungs:
        rung.check()


def test_a_wrong_number_fails(ladder: Ladder):
    ladder.arrays["text/logits"][0, -1, 0] += 1e-2
    with pytest.raises(AssertionError, match="text/logits"):
        test_text_decoder(ladder)
