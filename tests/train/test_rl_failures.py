"""Reward calls that fail: counted by kind, and the end of a run in which (nearly) all of them do."""

import pytest

from lam_jax.errors import NoUsableRewardError, RewardError
from lam_jax.rewards.functions import WeightedReward
from lam_jax.rewards.verdict import Verdict
from lam_jax.train.rl_failures import Failures, FailureWatch, count_failures
from tests.train.made_rl import EXAMPLE

TEXTS = {"http_400": "status 400: max_tokens is not supported", "timeout": "no reply in 60 s"}


def failed(calls=20, **kinds):
    return Failures(calls, kinds, {kind: TEXTS.get(kind, "?") for kind in kinds})


def test_failures_are_counted_by_kind():
    kinds = {(0, 1): "timeout", (2, 0): "http_400", (2, 3): "timeout"}
    errors = {(0, 1): "first", (2, 0): "bad", (2, 3): "second"}
    found = count_failures(kinds, errors, 16, 3)
    assert (found.calls, found.kinds, found.usable) == (16, {"timeout": 2, "http_400": 1}, 13)
    assert found.texts == {"timeout": "first", "http_400": "bad"}
    verdicts = [Verdict({"a": (1.0, 2.0)}), Verdict(error="no", kind="refused"), Verdict(error="odd")]
    assert Failures.of(verdicts).kinds == {"refused": 1, "other": 1}
    assert Failures.of(verdicts).texts == {"refused": "no", "other": "odd"}


def test_a_run_stops_after_so_many_steps_without_usable_calls():
    watch = FailureWatch(3, 0.1)
    watch.step(failed(http_400=20))
    watch.step(failed(http_400=19))  # 1 of 20 is less than a tenth
    with pytest.raises(NoUsableRewardError) as raised:
        watch.step(failed(http_400=15, timeout=5))
    text = str(raised.value)
    for part in (
        "Of the 60 reward calls of the last 3 steps 1 could be used, less than 10%",
        "http_400: 54 of 60 calls. status 400: max_tokens is not supported",
        "timeout: 5 of 60 calls. no reply in 60 s Raise the timeout",
        "max_failed_steps (3; 0: never stop)",
        "least_usable (0.1)",
    ):
        assert part in text, part
    assert text.index("http_400") < text.index("timeout:")
    assert isinstance(raised.value, RewardError), "the loop saves what is done"
    assert raised.value.exit_code == 17


@pytest.mark.parametrize(
    ("kind", "advice"),
    [
        ("http_400", "which setting"),
        ("http_402", "no credit"),
        ("quota", "no credit"),
        ("http_503", "server fails"),
        ("html", "/v1"),
        ("unparsable", "follows instructions"),
        ("missing_dimension", "follows instructions"),
        ("unfinished_thinking", "max_tokens"),
        ("no_finish_reason", "cut off"),
        ("truncated", "longer replies"),
    ],
)
def test_each_kind_says_what_to_do(kind, advice):
    with pytest.raises(NoUsableRewardError, match=rf"{kind}: 20 of 20 calls.*{advice}"):
        FailureWatch(1, 0.1).step(failed(**{kind: 20}))


def test_one_usable_step_begins_the_count_again():
    watch = FailureWatch(2, 0.1)
    for _ in range(3):
        watch.step(failed(timeout=20))
        watch.step(failed(timeout=18))  # a tenth is enough


def test_zero_never_stops():
    watch = FailureWatch(0, 0.5)
    for _ in range(20):
        watch.step(failed(timeout=20))


def test_no_share_at_all_still_needs_one_call():
    watch = FailureWatch(1, 0.0)
    watch.step(failed(timeout=19))
    with pytest.raises(NoUsableRewardError):
        watch.step(failed(timeout=20))


def test_a_weighted_failure_keeps_its_kind():
    class Judge:
        def __call__(self, examples, answers, samples):
            return [[Verdict(error="slow", kind="timeout")]]

    class Fine:
        def __call__(self, examples, answers, samples):
            return [[Verdict({"reward": (1.0, 1.0)})]]

    ((verdict,),) = WeightedReward((("fine", Fine(), 1.0), ("judge", Judge(), 1.0)))([EXAMPLE], [["answer"]], [0])
    assert (verdict.kind, verdict.error) == ("timeout", "judge: slow")
