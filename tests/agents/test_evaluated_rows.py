"""Which rows `lam-jax evaluate` takes: pictures elsewhere, facts that a judge is told, rows that a run left out."""

import json

import pytest

from lam_jax.agents.evaluated import usable_rows
from lam_jax.agents.settings import AgentError
from lam_jax.data.sources import JsonRows
from lam_jax.models.processor import ImageSettings
from lam_jax.rewards.judge import JudgeReward
from lam_jax.rewards.verdict import Verdict
from tests.agents import made_agents as made
from tests.cli.test_cli import call


def test_facts_belong_to_a_row_and_pictures_may_lie_elsewhere(
    qwen_config, make_tokenizer, tmp_path, monkeypatch, capsys
):
    """A judge is told the facts: without them it is not asked, and with others earlier verdicts do not count."""

    def judged(self, examples, answers, samples):
        return [[Verdict({"all": (5.0, 5.0)}) for _ in group] for group in answers]

    monkeypatch.setattr(JudgeReward, "__call__", judged)
    agent = made.hugging_face(tmp_path / "hf", made.small(qwen_config), make_tokenizer(default_system=True))
    made.picture(56, 84, 1).save(tmp_path / "0.png")
    facts = {"role_set": {"Home": "Parent"}, "location": "Home", "ImageDesc": "A wall.", "EvalHelp": "Kind words."}
    chat = [{"role": "user", "content": "And now?"}, {"role": "assistant", "content": "Rest."}]
    file = tmp_path / "elsewhere" / "rows.jsonl"
    file.parent.mkdir()

    def evaluate(facts):
        file.write_text(json.dumps({"id": "a", "image": "0.png", "messages": chat, "facts": facts}))
        judge = ["--judge", "http://127.0.0.1:9/v1", "--judge-model", "m", "--rubric", "help"]
        place = ["--image-root", str(tmp_path), "--out", str(tmp_path / "out")]
        drawn = ["--length", "4", "--samples", "1", "--diversity-samples", "0"]
        return call(["evaluate", str(agent), "--rows", str(file), *judge, *place, *drawn], capsys)

    code, _, err = evaluate({"location": "Home"})
    assert (code, "row 0, key 'facts': found no role_set, ImageDesc, EvalHelp" in err) == (1, True), err
    assert not (tmp_path / "out").exists()
    assert evaluate(facts)[0] == 0
    code, _, err = evaluate(facts | {"EvalHelp": "Run."})
    assert (code, "holds another evaluation" in err) == (3, True), err


def test_rows_that_a_run_leaves_out_are_left_out(tmp_path):
    """Else a run that was told to skip a broken picture could not be evaluated."""
    made.write_rows(tmp_path / "rows.json", 6)
    (tmp_path / "1.png").write_bytes((tmp_path / "1.png").read_bytes()[:60])
    (tmp_path / "3.png").unlink()
    rows = JsonRows(str(tmp_path / "rows.json"), {"test": (0, 1)})

    def left(prompts=None):
        return [example.id for example in usable_rows(rows, tmp_path, "t", "test", ImageSettings(), prompts)]

    assert sorted(left()) == ["row0", "row2", "row4", "row5"]
    assert left(2) == left()[:2]
    only_bad = [row for row in json.loads((tmp_path / "rows.json").read_text()) if row["id"] in ("row1", "row3")]
    (tmp_path / "rows.json").write_text(json.dumps(only_bad))
    with pytest.raises(AgentError, match="2 of 2 rows left out"):
        left()
