"""Failure signs: which numbers make which of them bad, and that each says what to change."""

import math

import pytest

from lam_jax.evaluation.code_signs import failure_signs

INVERSE = {
    "used_share": 0.9,
    "perplexity": 20.0,
    "top_share": 0.1,
    "mutual_information": 0.5 * math.log(32),
    "conditional_entropy": 0.5 * math.log(32),
}
RL = {"own_perplexity_before": 10.0, "own_perplexity_after": 9.0, "changed": 0.2}


def atlas(**changes):
    """Of an agent whose every sign is good; `changes` by "part.key", or a whole part."""
    found = {
        "codes": 32,
        "groups": [{"inverse": dict(INVERSE)}],
        "effect": {"mean_kl": 0.5, "distinct": 3.0, "without": 0},
        "projector": {"error": 0.3, "agreement": 0.7, "chance": 0.1},
        "cloning_accuracy": 0.6,
        "drawn": {
            **{"distinct_answers": 4.0, "distinct_2": 0.5, "repeated_4grams": 0.0, "samples": 4, "temperature": 1.0},
            **{"length": {"mean": 10.0}, "ended": 1.0},
        },
        "rl": dict(RL),
    }
    for place, value in changes.items():
        part, _, key = place.partition("__")
        if not key:
            found[part] = value
        else:
            (found["groups"][0]["inverse"] if part == "inverse" else found[part])[key] = value
    return found


def statuses(**changes) -> dict[str, str]:
    return {sign["sign"]: sign["status"] for sign in failure_signs(atlas(**changes))}


def test_where_all_is_well_all_is_good():
    assert set(statuses().values()) == {"good"}
    assert len(statuses()) == 7
    assert "RL that narrowed the codes" not in statuses(rl=None)


@pytest.mark.parametrize(
    ("sign", "bad", "watch"),
    [
        ("Collapsed or unused codes", {"inverse__used_share": 0.09}, {"inverse__used_share": 0.49}),
        ("Collapsed or unused codes", {"inverse__top_share": 0.81}, {"inverse__perplexity": 7.9}),
        ("Codes without effect", {"effect__mean_kl": 0.04}, {"effect__distinct": 1.2}),
        ("Codes without effect", {"effect__mean_kl": 0.04}, {"effect__mean_kl": 0.29}),
        (
            "Undecided inverse model",
            {"inverse__mutual_information": 0.09 * math.log(32)},
            {"inverse__mutual_information": 0.29 * math.log(32)},
        ),
        ("Unaligned projector", {"projector__error": 1.1}, {"projector__error": 0.7}),
        ("Unaligned projector", {"projector__agreement": 0.14}, {"projector__agreement": 0.39}),
        ("Policy that learned no codes", {"cloning_accuracy": 0.11}, {"cloning_accuracy": 0.19}),
        ("Dull answers", {"drawn__distinct_answers": 1.4}, {"drawn__distinct_answers": 2.4}),
        ("Dull answers", {"drawn__repeated_4grams": 0.41}, {"drawn__repeated_4grams": 0.16}),
        ("RL that narrowed the codes", {"rl__own_perplexity_after": 3.9}, {"rl__own_perplexity_after": 7.4}),
    ],
)
def test_each_sign_goes_by_its_own_numbers(sign, bad, watch):
    for changes, expected in ((bad, "bad"), (watch, "watch")):
        found = statuses(**changes)
        assert found.pop(sign) == expected
        own = {"Policy that learned no codes"} if "inverse__top_share" in changes else set()
        assert {status for name, status in found.items() if name not in own} == {"good"}


def test_what_was_not_measured_is_neither_good_nor_bad():
    found = statuses(
        projector={"error": None, "agreement": None, "chance": None}, drawn=atlas()["drawn"] | {"samples": 1}
    )
    assert found["Unaligned projector"] == found["Dull answers"] == "not measured"


def test_each_sign_shows_numbers_and_says_what_to_change():
    for sign in failure_signs(atlas()):
        assert sign["numbers"]
        assert all(isinstance(n["value"], int | float) for n in sign["numbers"])
        assert sign["meaning"].startswith("Bad ")
        assert len(sign["change"]) > 40
