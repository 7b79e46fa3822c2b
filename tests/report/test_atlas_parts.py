"""What the page of an atlas makes of its numbers: answers put together, moves of codes, heat maps."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from lam_jax.report import atlas as page


def pixels(address: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2]))).convert("RGB"), int)


def said(*texts):
    return [{"text": text, "finished": not text.endswith("..")} for text in texts]


def test_answers_that_are_alike_stand_together_and_no_code_is_lost():
    found = page._alike(said("b", "a", "a", "b..", "a", "b"))
    assert [(row["text"], row["finished"], row["codes"]) for row in found] == [
        ("a", True, [1, 2, 4]),
        ("b", True, [0, 5]),
        ("b..", False, [3]),
    ]


def test_moves_are_of_codes_that_rl_changed_the_largest_first():
    rl = {
        "usage_before": [0.5, 0.3, 0.2, 0.0],
        "usage_after": [0.5, 0.3, 0.1, 0.1],
        "own_usage_before": [0.6, 0.4, 0.0, 0.0],
        "own_usage_after": [0.3, 0.4, 0.2, 0.1],
    }
    found = page._moves({"rl": rl})
    assert [row["code"] for row in found] == [0, 2, 3]
    assert found[1] == {"code": 2, "before": 0.2, "after": 0.1, "own_before": 0.0, "own_after": 0.2}
    assert page._moves({"rl": None}) == []


def test_more_than_by_chance_is_orange_and_less_is_blue():
    """Code 0 is always followed by 1: eight times in all, against four by chance; 0 by itself never, against four."""
    image = pixels(page._matrix(np.array([[0, 8], [8, 0]])))
    for (first, second), more in {(0, 1): True, (1, 0): True, (0, 0): False, (1, 1): False}.items():
        red, _, blue = image[first, second]
        assert (red > blue) == more
    uniform, rare, often = pixels(page._heat(page._logs([0.25, 0.25 / 8, 0.72])))[0]
    assert abs(uniform[0] - uniform[2]) < 60
    assert rare[2] > rare[0] + 60
    assert often[0] > often[2] + 60


@pytest.mark.parametrize(("value", "shown"), [(None, "–"), (float("nan"), "–")])
def test_what_is_no_number_is_shown_as_none(value, shown):
    assert page._num(value) in (shown, "-")
