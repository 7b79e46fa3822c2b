"""`lam-jax evaluate`: an agent answers, is scored and compared; the same after a cut; nothing is asked twice."""

import json
import re
import shutil
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

from lam_jax.agents import evaluate as module
from lam_jax.agents.evaluate import evaluate_agent
from lam_jax.cli import main
from lam_jax.data.schemas import DataError
from lam_jax.evaluation.protocol import EvaluationProtocol
from lam_jax.report.evaluations import read_evaluation
from lam_jax.rewards.dimensions import ROLE_PLAY_RUBRIC
from lam_jax.rewards.judge import JudgeConfig, JudgeReward
from lam_jax.rewards.verdict import Verdict
from tests.agents import made_agents as made
from tests.cli.test_cli import call

ROWS, LENGTH = 7, 8
# Hot and short, so that random agents say different things.
HOT = ["--temperature", "1.5", "--length", str(LENGTH), "--batch", "3", "--samples", "2", "--diversity-samples", "2"]
REWARD = """
CALLS = []

def score(examples, answers):
    CALLS.append([(example.id, text) for example, group in zip(examples, answers) for text in group])
    return {"letters": [[float(len(text)) for text in group] for group in answers],
            "e": [[text.count("e") / 10 for text in group] for group in answers]}
"""


@pytest.fixture(scope="module")
def folders(tmp_path_factory, qwen_config, make_tokenizer) -> tuple[Path, Path]:
    """A Hugging Face folder, and one with latent modules."""
    folder, config = tmp_path_factory.mktemp("agents"), made.small(qwen_config)
    plain = made.hugging_face(folder / "hf", config, make_tokenizer(default_system=True))
    return plain, made.latent(folder / "latent", config, plain)


@pytest.fixture(scope="module")
def rows(tmp_path_factory) -> Path:
    path = [*sys.path]
    folder = tmp_path_factory.mktemp("rows")
    (folder / "made_evaluation_reward.py").write_text(REWARD)
    yield made.write_rows(folder / "rows.jsonl", ROWS)
    sys.path[:] = path


def arguments(agents, rows: Path, out: Path, *more: str) -> list[str]:
    named = [str(agent) for agent in (agents if isinstance(agents, list) else [agents])]
    reward = f"{rows.parent / 'made_evaluation_reward.py'}:score"
    return ["evaluate", *named, "--rows", str(rows), "--reward", reward, "--out", str(out), *HOT, *more]


@pytest.fixture(scope="module")
def whole(folders, rows) -> Path:
    """The uninterrupted evaluation of the latent agent."""
    out = rows.parent / "whole"
    assert main(arguments(folders[1], rows, out)) == 0
    return out


def files(out: Path) -> dict[str, str]:
    kept = [path for path in out.rglob("*") if path.is_file() and path.name != ".lock"]
    return {path.relative_to(out).as_posix(): path.read_text() for path in kept}


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def calls() -> list:
    return sys.modules["made_evaluation_reward"].CALLS


def test_the_result_is_computed_from_the_answers(whole):
    """Every figure again from the files, without the code that made it."""
    result = json.loads((whole / "evaluation.json").read_text())
    assert read_evaluation(whole / "evaluation.json") == result
    (entry,) = result["scores"]
    assert (entry["agent"], entry["set"], entry["space"], entry["prompts"]) == ("latent", "rows", "latent", ROWS)
    answers = lines(whole / entry["folder"] / "answers.jsonl")
    assert [line["id"] for line in answers] == [f"row{i}" for i in range(ROWS)]
    texts = np.array([[a["text"] for a in line["answers"]] for line in answers])
    values = np.vectorize(lambda text: len(text) + text.count("e") / 10)(texts)
    assert texts.shape == (ROWS, 2)
    assert len(np.unique(texts)) > ROWS
    assert entry["score"]["mean"] == pytest.approx(values.mean())
    assert entry["score"]["sample_means"] == pytest.approx(values.mean(axis=0))
    assert entry["score"]["std"] == pytest.approx(values.mean(axis=0).std(ddof=1))
    assert entry["score"]["low"] < values.mean() < entry["score"]["high"]
    assert entry["dimensions"]["letters"]["mean"] == pytest.approx(np.vectorize(len)(texts).mean())
    assert entry["calls"] == {"calls": 2 * ROWS, "failed": 0, "kinds": {}, "scored_prompts": ROWS}
    lengths = [a["length"] for line in answers for a in line["answers"]]
    assert entry["texts"]["length"]["mean"] == pytest.approx(np.mean(lengths))
    assert all(0 < length <= LENGTH for length in lengths)
    drawn = lines(whole / entry["folder"] / "diversity.jsonl")
    assert [[a["text"] for a in line["answers"]] for line in drawn] != texts.tolist()
    assert (entry["diversity"], result["embedder"]["name"]) == (None, "lexical")
    assert entry["lexical_diversity"]["diversity"] >= 1
    assert entry["lexical_diversity"]["samples"] == 2


def test_a_finished_evaluation_costs_nothing(folders, rows, whole, monkeypatch, capsys):
    before = files(whole)
    calls().clear()
    monkeypatch.setattr(module, "load_folder", lambda *_: pytest.fail("loaded the agent"))
    code, out, _ = call(arguments(folders[1], rows, whole), capsys)
    assert code == 0
    assert files(whole) == before
    assert sum(map(len, calls())) == 1  # the first row, to see that the function works
    assert "Lexical" in out


@pytest.mark.parametrize("where", ["answers", "scores"])
def test_an_interrupted_evaluation_goes_on_and_equals_the_whole(folders, rows, whole, tmp_path, where, monkeypatch):
    out = tmp_path / "cut"
    if where == "answers":  # Ctrl-C after some rows of the scored answers
        answered = module._line
        seen = []

        def interrupted(answer, hashes):
            seen.append(answer.example.id)
            if len(seen) == 5:
                raise KeyboardInterrupt
            return answered(answer, hashes=hashes)

        with monkeypatch.context() as patch:
            patch.setattr(module, "_line", interrupted)
            assert main(arguments(folders[1], rows, out)) == 130
        assert len(lines(out / "1_latent/rows/answers.jsonl")) == 4
        assert not (out / "evaluation.json").exists()
    else:  # killed in the middle of a verdict
        shutil.copytree(whole, out)
        (out / "evaluation.json").unlink()
        verdicts = out / "1_latent/rows/verdicts.jsonl"
        verdicts.write_text("".join(verdicts.read_text().splitlines(keepends=True)[:9]) + '{"id": "ro')
    calls().clear()
    assert main(arguments(folders[1], rows, out)) == 0
    if where == "scores":
        asked = [row for asked in calls()[1:] for row, _ in asked]
        assert asked == ["row4", "row5", "row5", "row6", "row6"]
    known, found = files(whole), files(out)
    verdicts = "1_latent/rows/verdicts.jsonl"
    assert sorted(found.pop(verdicts).splitlines()) == sorted(known.pop(verdicts).splitlines())
    assert found == known


@pytest.mark.parametrize(
    ("more", "place"),
    [
        (["--seed", "1"], "protocol.seed: found 0, expected 1"),
        (["--samples", "3"], "protocol.samples: found 2, expected 3"),
        (["--diversity-temperature", "0.5"], "protocol.diversity_temperature"),
        (["--prompts", "3"], "protocol.prompts"),
        (["--reward", "similarity"], "reward.value"),
        (["--space", "token"], "settings.space"),
    ],
)
def test_other_settings_in_the_same_folder_are_refused_by_name(folders, rows, whole, more, place, capsys):
    before = files(whole)
    code, _, err = call(arguments(folders[1], rows, whole, *more), capsys)
    assert (code, place in err) == (3, True), err
    assert files(whole) == before


def test_what_is_computed_from_answers_may_change(folders, rows, whole, tmp_path, monkeypatch):
    out = shutil.copytree(whole, tmp_path / "copy")
    monkeypatch.setattr(module, "load_folder", lambda *_: pytest.fail("loaded the agent"))
    assert main(arguments(folders[1], rows, out, "--confidence", "0.5")) == 0
    wide, narrow = (json.loads((f / "evaluation.json").read_text())["scores"][0]["score"] for f in (whole, out))
    assert wide["low"] < narrow["low"] < narrow["high"] < wide["high"]


def test_two_agents_are_compared_and_so_is_an_earlier_evaluation(folders, rows, whole, tmp_path, capsys):
    code, text, _ = call(arguments([folders[0], folders[1]], rows, tmp_path / "two"), capsys)
    assert code == 0
    result = json.loads((tmp_path / "two" / "evaluation.json").read_text())
    (pair,) = result["comparisons"]
    assert (pair["first"], pair["second"], pair["unpaired"]) == ("hf", "latent", 0)
    assert "sign test" in pair["test"]
    means = {}
    for entry in result["scores"]:
        answers = lines(tmp_path / "two" / entry["folder"] / "answers.jsonl")
        texts = [[a["text"] for a in line["answers"]] for line in answers]
        means[entry["agent"]] = np.array([np.mean([len(t) + t.count("e") / 10 for t in group]) for group in texts])
    difference = means["hf"] - means["latent"]
    assert pair["difference"]["mean"] == pytest.approx(difference.mean())
    won, lost = int((difference > 1e-9).sum()), int((difference < -1e-9).sum())
    assert (pair["wins"], pair["losses"], pair["ties"]) == (won, lost, ROWS - won - lost)
    assert "1 - 2 rows" in text
    assert main(arguments(folders[0], rows, tmp_path / "one", "--against", str(whole))) == 0
    (other,) = json.loads((tmp_path / "one" / "evaluation.json").read_text())["comparisons"]
    kept = ("second_evaluation",)
    assert {k: v for k, v in other.items() if k not in kept} == {k: v for k, v in pair.items() if k not in kept}
    assert other["second_evaluation"] == "whole"


def test_rows_that_changed_under_their_id_are_not_paired(folders, rows, whole, tmp_path, capsys):
    changed = [json.loads(line) for line in rows.read_text().splitlines()][:4]
    changed[2]["messages"][0]["content"] += " Or dogs?"
    for row in changed:
        if "image" in row:
            shutil.copy(rows.parent / row["image"], tmp_path)
    shutil.copy(rows.parent / "made_evaluation_reward.py", tmp_path)
    other = tmp_path / "rows.jsonl"
    other.write_text("".join(json.dumps(row) + "\n" for row in changed))
    args = arguments(folders[1], other, tmp_path / "out", "--against", str(whole))
    args[args.index("--reward") + 1] = f"{rows.parent / 'made_evaluation_reward.py'}:score"
    assert main(args) == 0
    (pair,) = json.loads((tmp_path / "out" / "evaluation.json").read_text())["comparisons"]
    # Rows 0, 1, 3 are in both; row 2 is another one; rows 4 to 6 are in the other evaluation only.
    assert (pair["prompts"], pair["unpaired"], pair["same_id_other_row"], pair["ties"]) == (3, 4, 1, 3)
    args[args.index("--reward") + 1] = "similarity"
    args[args.index("--out") + 1] = str(tmp_path / "scored_otherwise")
    code, _, err = call(args, capsys)
    assert (code, "are scored by different rewards" in err) == (2, True), err


def test_failed_calls_are_dropped_counted_and_never_scored(folders, rows, whole, tmp_path):
    out = shutil.copytree(whole, tmp_path / "copy")
    verdicts = out / "1_latent/rows/verdicts.jsonl"
    kept = [json.loads(line) for line in verdicts.read_text().splitlines()]
    kept[0] = {"id": kept[0]["id"], "sample": kept[0]["sample"], "error": "HTTP 503", "kind": "server"}
    verdicts.write_text("".join(json.dumps(line) + "\n" for line in kept))
    assert main(arguments(folders[1], rows, out)) == 0
    (entry,) = json.loads((out / "evaluation.json").read_text())["scores"]
    others = [line["scores"]["reward"][0] for line in kept[1:]]
    assert entry["score"]["mean"] == pytest.approx(np.mean(others))
    assert entry["calls"] == {"calls": 2 * ROWS, "failed": 1, "kinds": {"server": 1}, "scored_prompts": ROWS}
    calls().clear()
    assert main(arguments(folders[1], rows, out, "--retry-failed")) == 0
    assert [len(asked) for asked in calls()] == [1, 1]  # the try on the first row, then the one that failed
    (entry,) = json.loads((out / "evaluation.json").read_text())["scores"]
    assert entry["score"] == json.loads((whole / "evaluation.json").read_text())["scores"][0]["score"]


def test_agents_without_a_pair_of_scores_are_not_compared_and_keep_their_result(folders, rows, tmp_path, capsys):
    """Of one agent only the calls of sample 0 succeeded, of the other those of sample 1: what was paid for stays."""
    args = arguments([folders[0], folders[1]], rows, tmp_path / "two")
    assert main(args) == 0
    for number, name in enumerate(("1_hf", "2_latent")):
        verdicts = tmp_path / "two" / name / "rows" / "verdicts.jsonl"
        kept = [
            line if line["sample"] == number else {"id": line["id"], "sample": line["sample"], "error": "x"}
            for line in lines(verdicts)
        ]
        verdicts.write_text("".join(json.dumps(line) + "\n" for line in kept))
    (tmp_path / "two" / "evaluation.json").unlink()
    code, text, said = call(args, capsys)
    result = json.loads((tmp_path / "two" / "evaluation.json").read_text())
    assert (code, result["comparisons"]) == (0, [])
    assert [entry["calls"]["failed"] for entry in result["scores"]] == [ROWS, ROWS]
    assert "hf and latent, set rows: not compared" in text + said


def test_other_rewards_are_refused_before_anything_is_answered(folders, rows, whole, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(module, "load_folder", lambda *_: pytest.fail("loaded the agent"))
    args = arguments(folders[0], rows, tmp_path / "out", "--against", str(whole))
    args[args.index("--reward") + 1] = "similarity"
    code, _, err = call(args, capsys)
    assert (code, "are scored by different rewards" in err) == (2, True), err


def test_without_a_reward_only_texts_are_measured_and_rows_are_needed(folders, rows, tmp_path, capsys):
    args = arguments(folders[0], rows, tmp_path / "out")
    at = args.index("--reward")
    code, text, _ = call([*args[:at], *args[at + 2 :]], capsys)
    assert (code, "Scores" in text, "Distinct answers" in text or "Distinct" in text) == (0, False, True)
    code, _, err = call(["evaluate", str(folders[0]), "--out", str(tmp_path / "other")], capsys)
    assert (code, "name a file of rows, as --rows FILE" in err) == (2, True)


def test_a_folder_of_other_files_is_refused(folders, rows, tmp_path, capsys):
    (tmp_path / "mine.txt").write_text("mine")
    code, _, err = call(arguments(folders[1], rows, tmp_path), capsys)
    assert (code, "holds files and no settings.json" in err) == (3, True)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_rows_without_the_reference_that_a_judge_needs_are_named_before_anything_is_answered(folders, tmp_path):
    rows = made.write_rows(tmp_path / "rows.jsonl", 2, reference=False)
    reward = JudgeReward(JudgeConfig("http://127.0.0.1:9/v1", "m"), ROLE_PLAY_RUBRIC)
    with pytest.raises(DataError, match=r"rows.jsonl, row 0.*no reference answer"):
        evaluate_agent(folders[0], tmp_path / "out", rows=rows, reward=reward)
    assert not (tmp_path / "out").exists()


def test_a_judge_that_wrote_the_references_is_warned_of_once(folders, rows, tmp_path, monkeypatch):
    monkeypatch.setattr(JudgeReward, "__call__", judged)
    reward = JudgeReward(JudgeConfig("http://127.0.0.1:9/v1", "big-judge"), ROLE_PLAY_RUBRIC)
    protocol = EvaluationProtocol(samples=1, length=2, prompts=2, diversity_samples=0)
    options = {"rows": rows, "reward": reward, "protocol": protocol, "batch": 2}
    with pytest.warns(UserWarning, match=r"evaluation judge and writer of the references are the same model") as seen:
        result = evaluate_agent(folders[0], tmp_path / "out", reference_writer="Big-Judge", **options)
    assert len(seen) == 1
    assert result["scores"][0]["dimensions"]["Fluency"]["mean"] == pytest.approx(0.8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        moved = JudgeReward(JudgeConfig("http://127.0.0.1:9/v1", "big-judge", concurrency=2), ROLE_PLAY_RUBRIC)
        again = evaluate_agent(folders[0], tmp_path / "out", reference_writer="another", **{**options, "reward": moved})
    assert again["scores"] == result["scores"]  # how a judge is reached changes no verdict


def test_a_judge_of_the_command_line_gets_the_numbers_of_the_samples(folders, rows, tmp_path, monkeypatch, capsys):
    asked = []

    def judge(self, examples, answers, samples):
        asked.extend((self.judge.base_url, self.judge.model, e.id, g) for e in examples for g in samples)
        return judged(self, examples, answers, samples)

    monkeypatch.setattr(JudgeReward, "__call__", judge)
    args = [
        "evaluate",
        str(folders[0]),
        "--rows",
        str(rows),
        "--out",
        str(tmp_path / "out"),
        "--diversity-samples",
        "0",
    ]
    args += ["--samples", "2", "--length", "2", "--batch", "2", "--prompts", "2"]
    url = ["--judge", "http://127.0.0.1:9/v1", "--judge-model", "big"]
    code, _, err = call([*args, *url], capsys)
    assert (code, "--rubric: found no run with a judge" in err) == (2, True), err
    code, out, _ = call([*args, *url, "--rubric", "role_play"], capsys)
    assert (code, "judge big: 4 answers to score" in out) == (0, True)
    assert asked == [("http://127.0.0.1:9/v1", "big", f"row{i}", g) for i in range(2) for g in range(2)]
    # At another address it is the same judge, and nothing is asked again.
    code, out, _ = call([*args, "--judge", "http://127.0.0.1:7/v1", *url[2:], "--rubric", "role_play"], capsys)
    assert (code, len(asked), "answers to score" in out) == (0, 4, False)


def judged(self, examples, answers, samples):
    return [[Verdict({name: (8.0, 10.0) for name in self.rubric.dimensions}) for _ in samples] for _ in examples]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--judge", "http://127.0.0.1:9/v1"], "--judge and --judge-model: found one of them"),
        (["--rubric", "help"], "--rubric: expected --judge"),
        (["--confidence", "1"], "--confidence: found 1.0"),
        (["--samples", "0"], "--samples: found 0, expected at least 1"),
        (["--diversity-samples", "1"], "--diversity-samples: found 1"),
        (["--embedder", "/no/such/folder"], "embedder '/no/such/folder': found no such folder"),
        (["--against", "/no/such/folder"], "no such file, expected the result of an evaluation"),
    ],
)
def test_bad_flags_are_refused(folders, rows, tmp_path, more, message, capsys):
    code, _, err = call(arguments(folders[0], rows, tmp_path / "out", *more), capsys)
    assert code in (1, 2)
    assert message in err, err
    assert not list((tmp_path / "out").rglob("*.jsonl"))


def test_tables_fit_into_80_columns(whole, tmp_path, monkeypatch):
    from rich.console import Console

    from lam_jax.report.evaluation_tables import evaluation_lines, evaluation_tables

    result = json.loads((whole / "evaluation.json").read_text())
    (entry,) = result["scores"]
    long = {f"Consistency of the personality number {i}": entry["score"] for i in range(8)}
    names = [f"a_run_with_a_long_name/role_play/{space}" for space in ("latent", "token", "x", "y")]
    result["scores"] = [
        entry | {"agent": name, "set": key, "dimensions": long} for name in names for key in ("id", "ood")
    ]
    pair = {"first": names[0], "second": names[1], "set": "ood", "title": "t", "test": "sign test", "prompts": 1234}
    pair |= {"unpaired": 17, "wins": 1000, "ties": 100, "losses": 134, "p_value": 1e-12, "win_rate": 0.9}
    pair |= {"difference": {"mean": -0.1234, "low": -0.2234, "high": -0.0123}, "second_evaluation": None}
    result["comparisons"] = [pair]
    console = Console(width=80, file=(tmp_path / "out").open("w"), force_terminal=False)
    for line in evaluation_lines(result):
        console.print(line, highlight=False, markup=False)
    for table in evaluation_tables(result):
        console.print(table)
    console.file.close()
    text = (tmp_path / "out").read_text()
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text
    assert re.search(r"1 - 2 ood\s+1,234\s+−0.123", text)
    assert "without 17" in text
