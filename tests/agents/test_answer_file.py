"""`lam-jax generate`: rows in, answers out, the same after a cut, and nothing mixed up."""

import fcntl
import json
import math
import re
from pathlib import Path

import pytest

from lam_jax.agents import answer_file as module
from lam_jax.cli import main
from tests.agents import made_agents as made
from tests.cli.test_cli import call

ROWS, LENGTH = 7, 8
HOT = ["--temperature", "1.5", "--length", str(LENGTH), "--batch", "3", "--samples", "2"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory, qwen_config, make_tokenizer) -> tuple[Path, Path]:
    """A Hugging Face folder, and one with latent modules."""
    folder, config = tmp_path_factory.mktemp("agents"), made.small(qwen_config)
    plain = made.hugging_face(folder / "hf", config, make_tokenizer(default_system=True))
    return plain, made.latent(folder / "latent", config, plain)


@pytest.fixture(scope="module")
def rows(tmp_path_factory) -> Path:
    return made.write_rows(tmp_path_factory.mktemp("rows") / "rows.jsonl", ROWS)


@pytest.fixture(scope="module")
def whole(folders, rows) -> Path:
    """The uninterrupted output of the latent agent, codes and log-probabilities with it."""
    output = rows.parent / "whole.jsonl"
    assert main(arguments(folders[1], rows, output)) == 0
    return output


def arguments(agent: Path, rows: Path, output: Path, *more: str) -> list[str]:
    return ["generate", str(agent), "--input", str(rows), "--output", str(output), *HOT, "--codes", "--logps", *more]


def read(output: Path) -> list[dict]:
    return [json.loads(line) for line in output.read_text().splitlines()]


def test_a_line_holds_the_id_and_the_answers(whole):
    lines = read(whole)
    assert [line["id"] for line in lines] == [f"row{i}" for i in range(ROWS)]
    for line in lines:
        assert list(line) == ["id", "answers"]
        assert len(line["answers"]) == 2
        for answer in line["answers"]:
            assert list(answer) == ["text", "finished", "codes", "logps"]
            assert isinstance(answer["text"], str)
            assert set(answer["codes"]) <= set(range(made.LATENT.codes))
            assert len(answer["logps"]) == len(answer["codes"]) <= LENGTH
            assert max(answer["logps"]) <= 0
            assert len(answer["codes"]) == LENGTH or answer["finished"]
    # Temperature 1.5 on 8 codes: the mean is near that of a not quite uniform choice, far from 0 and from certainty.
    logps = [value for line in lines for answer in line["answers"] for value in answer["logps"]]
    assert -2 * math.log(8) < sum(logps) / len(logps) < -0.1


def test_codes_and_log_probabilities_are_left_out_unless_asked_for(folders, rows, tmp_path, whole):
    args = [a for a in arguments(folders[1], rows, tmp_path / "a.jsonl") if a not in ("--codes", "--logps")]
    assert main(args) == 0
    expected = [
        {"id": line["id"], "answers": [{k: a[k] for k in ("text", "finished")} for a in line["answers"]]}
        for line in read(whole)
    ]
    assert read(tmp_path / "a.jsonl") == expected


@pytest.mark.parametrize("kept", [0, 1, 3, 5])
@pytest.mark.parametrize("tail", ["", '{"id": "row', "\0\0"])
def test_a_cut_output_goes_on_and_equals_the_whole(folders, rows, whole, tmp_path, kept, tail, capsys):
    output = tmp_path / "cut.jsonl"
    lines = whole.read_text().splitlines(keepends=True)
    output.write_text("".join(lines[:kept]) + tail)
    module.settings_file(output).write_text(module.settings_file(whole).read_text())
    code, out, _ = call(arguments(folders[1], rows, output), capsys)
    assert code == 0
    assert output.read_bytes() == whole.read_bytes()
    assert (f"goes on after row {kept} of {ROWS}" in out) == (kept > 0)


def test_a_batch_of_another_size_may_go_on(folders, rows, whole, tmp_path):
    output = tmp_path / "cut.jsonl"
    output.write_text("".join(whole.read_text().splitlines(keepends=True)[:2]))
    module.settings_file(output).write_text(module.settings_file(whole).read_text())
    assert main(arguments(folders[1], rows, output, "--batch", "1")) == 0
    codes = [[a["codes"] for a in line["answers"]] for line in read(output)]
    assert codes == [[a["codes"] for a in line["answers"]] for line in read(whole)]


def test_a_finished_output_is_left_alone(folders, rows, whole, monkeypatch, capsys):
    monkeypatch.setattr(module, "load_folder", lambda *_: pytest.fail("loaded the agent"))
    before = whole.stat().st_mtime_ns
    code, out, _ = call(arguments(folders[1], rows, whole), capsys)
    assert (code, f"has all {ROWS} answers already" in out) == (0, True)
    assert whole.stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("more", "place"),
    [
        (["--seed", "1"], "request.seed: found 0, expected 1"),
        (["--samples", "3"], "request.samples"),
        (["--temperature", "1"], "request.sampling.temperature: found 1.5, expected 1.0"),
        (["--length", "9"], "request.length"),
        (["--space", "token"], "codes: leave --codes out"),
    ],
)
def test_another_request_for_the_same_output_is_refused(folders, rows, whole, more, place, capsys):
    before = whole.read_bytes()
    code, _, err = call(arguments(folders[1], rows, whole, *more), capsys)
    assert (code, place in err) == (2 if "codes" in place else 3, True), err
    assert whole.read_bytes() == before


def test_another_agent_or_other_rows_for_the_same_output_are_refused(folders, rows, whole, tmp_path, capsys):
    args = [a for a in arguments(folders[0], rows, whole) if a != "--codes"]
    code, _, err = call(args, capsys)
    assert code == 3
    assert "agent." in err
    code, _, err = call(arguments(folders[1], made.write_rows(tmp_path / "rows.jsonl", ROWS + 1), whole), capsys)
    assert (code, "rows.sha256" in err) == (3, True)


def test_an_output_of_unknown_origin_is_refused_and_kept(folders, rows, whole, tmp_path, capsys):
    output = tmp_path / "notes.jsonl"
    output.write_text("mine\n")
    code, _, err = call(arguments(folders[1], rows, output), capsys)
    assert (code, "is there without notes.jsonl.settings.json" in err) == (3, True)
    for text, message in (
        ("mine\n", "line 1: damaged"),
        ('{"id": "row1"}\n', "its lines are not the answers to"),
    ):
        output.write_text(text)
        module.settings_file(output).write_text(module.settings_file(whole).read_text())
        code, _, err = call(arguments(folders[1], rows, output), capsys)
        assert (code, message in err) == (3, True)
        assert output.read_text() == text
    module.settings_file(output).write_text("{")
    code, _, err = call(arguments(folders[1], rows, output), capsys)
    assert (code, "settings.json: damaged" in err) == (3, True)


def test_an_output_that_is_being_written_is_refused(folders, rows, tmp_path, capsys):
    with (tmp_path / "a.jsonl").open("ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        code, _, err = call(arguments(folders[1], rows, tmp_path / "a.jsonl"), capsys)
    assert (code, "is being written by another process" in err) == (4, True)


def test_a_json_list_without_reference_answers_gets_the_same_answers(folders, rows, whole, tmp_path):
    made.write_rows(tmp_path / "rows.json", ROWS, reference=False)
    assert main(arguments(folders[1], tmp_path / "rows.json", tmp_path / "out.jsonl")) == 0
    assert read(tmp_path / "out.jsonl") == read(whole)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "found no rows; expected one row or more"),
        ('{"id": "a"}\n', r"row 0, key 'messages': found no such key"),
        ('{"id": "a", "messages": [{"role": "user", "content": "A"}]}\n' * 2, "key 'id': found 'a', which"),
        ('{"id": "a", "messages": [{"role": "user", "content": "A"}], "image": "no.png"}\n', r"found no file .*no.png"),
        ("{\n", r"rows.jsonl, line 1: found .*expected a JSON object"),
    ],
)
def test_bad_rows_are_named_before_anything_is_written(folders, tmp_path, text, message, capsys):
    (tmp_path / "rows.jsonl").write_text(text)
    code, _, err = call(arguments(folders[1], tmp_path / "rows.jsonl", tmp_path / "out.jsonl"), capsys)
    assert code == 1
    assert re.search(message, err), err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rows.jsonl"]


@pytest.mark.parametrize(
    "more", [["--samples", "0"], ["--batch", "0"], ["--temperature", "-1"], ["--seed", "-1"], ["--length", "x"]]
)
def test_bad_flags_are_refused(folders, rows, tmp_path, more, capsys):
    code, out, err = call(arguments(folders[1], rows, tmp_path / "out.jsonl", *more), capsys)
    assert code == 2
    assert more[0] in out + err
