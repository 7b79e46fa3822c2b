import dataclasses

import pytest

from lam_jax.rl import ALGORITHMS, Algorithm


def test_table_of_the_method():
    """method.md section 4's table, row by row."""
    table = {name: (a.advantage, a.normaliser, a.clip_low, a.clip_high) for name, a in ALGORITHMS.items()}
    assert table["grpo"] == ("group_std", "sequence_mean", 0.2, 0.2)
    assert table["dr_grpo"] == ("group_mean", "max_length", 0.2, 0.2)
    assert table["dapo"] == ("group_std", "global_tokens", 0.2, 0.28)
    assert table["bnpo"] == ("group_std", "local_tokens", 0.2, 0.2)
    assert table["gspo"] == ("group_std", "sequence_mean", 3e-4, 4e-4)
    assert table["cispo"] == ("group_std", "global_tokens", 0.2, 0.28)
    ratios = {name: (a.importance, a.objective) for name, a in ALGORITHMS.items()}
    assert ratios.pop("gspo") == ("sequence", "clipped")
    assert ratios.pop("cispo") == ("token", "cispo")
    assert set(ratios.values()) == {("token", "clipped")}
    assert ALGORITHMS["dapo"].dynamic_sampling_std is not None
    assert ALGORITHMS["dapo"].max_refills == 3
    assert {a.beta for a in ALGORITHMS.values()} == {0.01}
    assert ALGORITHMS["dapo"].overlong_tokens(1024) == 205
    assert ALGORITHMS["grpo"].overlong_tokens(1024) == 0


def test_official_variants_differ_in_the_normaliser_only():
    released = [ALGORITHMS[name].official() for name in ("grpo", "dr_grpo", "dapo", "bnpo")]
    assert len({a.normaliser for a in released}) == 4
    same = {dataclasses.replace(a, name="", normaliser="sequence_mean") for a in released}
    assert same == {Algorithm("", failed_calls="fill")}


@pytest.mark.parametrize("name", ["gspo", "cispo"])
def test_extras_have_no_official_variant(name):
    with pytest.raises(ValueError, match="not in the released code"):
        ALGORITHMS[name].official()


@pytest.mark.parametrize(
    "change",
    [{"advantage": "mean"}, {"normaliser": "tokens"}, {"clip_low": -0.1}, {"clip_delta": 1.1}, {"overlong_share": 2.0}],
)
def test_impossible_values_are_refused(change):
    # while tests run, jaxtyping refuses a wrong literal before our own check does
    with pytest.raises((ValueError, TypeError), match=next(iter(change))):
        dataclasses.replace(ALGORITHMS["grpo"], **change)
