"""Verdicts on disk: what is there is not asked for again, and nothing is scored that failed."""

import dataclasses
import json

import pytest

from lam_jax.data.schemas import Example
from lam_jax.evaluation import verdict_file as module
from lam_jax.evaluation.verdict_file import RewardRefusesError, read_verdicts, score_rows
from lam_jax.rewards.reward import RewardShapeError
from lam_jax.rewards.verdict import Verdict
from lam_jax.runs.jsonl import BrokenLinesError

ROWS = 70
EXAMPLES = [
    Example(f"r{i}", ({"role": "user", "content": "?"}, {"role": "assistant", "content": "!"})) for i in range(ROWS)
]
ANSWERS = [[f"{i} {g}" for g in range(2)] for i in range(ROWS)]


@dataclasses.dataclass
class Counting:
    """Scores "i g" with i + g / 10 and remembers what it was asked; raises or fails where it is told."""

    asked: list = dataclasses.field(default_factory=list)
    fails: set = dataclasses.field(default_factory=set)
    raises: str = ""

    def __call__(self, examples, answers, samples):
        out = []
        for example, group in zip(examples, answers, strict=True):
            out.append([])
            for sample, text in zip(samples, group, strict=True):
                if example.id == self.raises:
                    raise KeyboardInterrupt
                i, g = map(int, text.split())
                assert (f"r{i}", g) == (example.id, sample)  # the number of the sample reaches the reward
                self.asked.append((example.id, sample))
                key = (example.id, sample)
                out[-1].append(Verdict(error="timeout") if key in self.fails else Verdict({"d": (i + g / 10, 1.0)}))
        return out


def test_verdicts_are_in_order_and_kept(tmp_path):
    reward, told = Counting(), []
    found = score_rows(tmp_path / "v.jsonl", EXAMPLES, ANSWERS, reward, done=told.append)
    assert [(s.row, s.sample, s.verdict.reward) for s in found] == [
        (f"r{i}", g, i + g / 10) for i in range(ROWS) for g in range(2)
    ]
    assert told == [0, 32, 64, 70]
    again = Counting()
    assert score_rows(tmp_path / "v.jsonl", EXAMPLES, ANSWERS, again, done=told.append) == found
    assert (again.asked, told[-1]) == ([], 70)


def test_an_interrupted_scoring_goes_on(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        score_rows(tmp_path / "v.jsonl", EXAMPLES, ANSWERS, Counting(raises="r40"))
    assert len(read_verdicts(tmp_path / "v.jsonl")) == 64
    with (tmp_path / "v.jsonl").open("a") as file:
        file.write('{"id": "r32", "sam')  # what a killed process leaves
    reward = Counting()
    found = score_rows(tmp_path / "v.jsonl", EXAMPLES, ANSWERS, reward)
    assert reward.asked == [(f"r{i}", g) for i in range(32, ROWS) for g in range(2)]
    assert found == score_rows(tmp_path / "whole.jsonl", EXAMPLES, ANSWERS, Counting())


def test_failed_calls_stay_failed_until_asked_for_and_only_they_are_asked_again(tmp_path):
    fails = {("r3", 0), ("r5", 1), ("r6", 0), ("r6", 1)}
    found = score_rows(tmp_path / "v.jsonl", EXAMPLES, ANSWERS, Counting(fails=fails))
    assert {(s.row, s.sample) for s in found if not s.verdict.ok} == fails
    kept = Counting()
    assert score_rows(tmp_path / "v.jsonl", EXAMPLES, ANSWERS, kept) == found
    assert kept.asked == []
    again = Counting()
    mended = score_rows(tmp_path / "v.jsonl", EXAMPLES, ANSWERS, again, retry_failed=True)
    assert set(again.asked) == fails
    assert len(again.asked) == len(fails)
    assert all(s.verdict.ok for s in mended)


def test_a_reward_whose_calls_all_fail_stops(tmp_path):
    reward = Counting(fails={(f"r{i}", g) for i in range(ROWS) for g in range(2)})
    with pytest.raises(RewardRefusesError, match=r"last 64 calls all failed.*timeout.*--retry-failed"):
        score_rows(tmp_path / "v.jsonl", EXAMPLES, ANSWERS, reward)
    assert len(reward.asked) == 64
    assert len(score_rows(tmp_path / "v.jsonl", EXAMPLES, ANSWERS, Counting(), retry_failed=True)) == 2 * ROWS


def test_parts_and_kinds_come_back(tmp_path):
    verdict = Verdict({"reward": (1.5, 1.0)}, parts={"a": 1.0, "b": 0.5})
    assert module.scored_of(module.record_of("r", 2, verdict)).verdict == verdict
    failed = Verdict(error="HTTP 500")
    object.__setattr__(failed, "kind", "server")
    line = module.record_of("r", 0, failed)
    assert line == {"id": "r", "sample": 0, "error": "HTTP 500", "kind": "server"}
    other = module.record_of("r", 1, Verdict(error="?"))
    (tmp_path / "v.jsonl").write_text("".join(json.dumps(one) + "\n" for one in (line, other)))
    assert module.failed_kinds(tmp_path / "v.jsonl") == {("r", 0): "server"}
    assert [item.verdict.ok for item in read_verdicts(tmp_path / "v.jsonl")] == [False, False]


@pytest.mark.parametrize(
    "line",
    [
        '{"id": "r0"}',
        '{"id": "r0", "sample": 0, "scores": {"d": [1]}}',
        '{"id": "r0", "sample": 0, "scores": {"d": [1, 0]}}',
    ],
)
def test_a_line_that_is_no_verdict_is_named_not_guessed(tmp_path, line):
    (tmp_path / "v.jsonl").write_text(line + "\n")
    with pytest.raises(BrokenLinesError, match="record 1: found no verdict"):
        score_rows(tmp_path / "v.jsonl", EXAMPLES, ANSWERS, Counting())


def test_another_shape_is_refused_and_not_written(tmp_path):
    with pytest.raises(RewardShapeError):
        score_rows(tmp_path / "v.jsonl", EXAMPLES, ANSWERS, lambda *_: [[1.0]])
    assert not (tmp_path / "v.jsonl").exists()
