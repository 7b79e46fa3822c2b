"""`lam-jax data`: what it prints of good and bad rows, of a recipe's, of plain files and of the raw MMRole layout."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from lam_jax.cli import main
from lam_jax.cli.train import parse
from lam_jax.corpora.build import Sampling
from lam_jax.corpora.kinds import build_pretraining
from tests.cli.test_cli import ROOT, call

CHAT = [{"role": "user", "content": "What is there?"}, {"role": "assistant", "content": "A red lion."}]


def picture(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (56, 56), "red").save(path)


def rows_file(folder, name, rows):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text("".join(row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows))
    return str(folder / name)


@pytest.fixture
def bad_file(tmp_path):
    """Ten rows: 2 is no JSON, 3 has no messages, 5 the id of 4, 6 a broken picture, 7 none, 8 is longer than a row."""
    picture(tmp_path / "red.png")
    (tmp_path / "broken.png").write_bytes((tmp_path / "red.png").read_bytes()[:60])
    rows = [{"id": f"r{i}", "image": "red.png", "messages": CHAT} for i in range(10)]
    rows[2] = '{"id": broken\n'
    rows[3] = {"id": "r3", "image": "red.png", "messages": []}
    rows[5]["id"] = "r4"
    rows[6]["image"] = "broken.png"
    rows[7]["image"] = "gone.png"
    rows[8] = {"id": "r8", "messages": [{"role": "user", "content": "lion " * 300}, CHAT[1]]}
    return rows_file(tmp_path, "rows.jsonl", rows)


def test_every_bad_row_is_found_counted_and_listed(bad_file, tmp_path, capsys):
    listed = tmp_path / ("b" * 249 + ".jsonl")  # as long as a name may be
    code, out, _ = call(["data", "check", bad_file, "--bad-out", str(listed)], capsys)
    assert code == 1
    for part in ("10 read, 5 kept, 5 dropped", "1 broken picture", "1 missing picture", "1 duplicate id", "rows 7"):
        assert part in out
    assert "5 of 10 rows are bad (50.0 %)" in out
    bad = {r["row"]: r for r in map(json.loads, listed.read_text().splitlines())}
    assert list(bad) == sorted(bad)
    assert sorted(set(bad) - {4, 5}) == [2, 3, 6, 7]
    assert len(bad) == 5  # one of 4 and 5
    assert {r["file"] for r in bad.values()} == {bad_file}
    assert (bad[6]["id"], bad[6]["picture"]) == ("r6", str(tmp_path / "broken.png"))
    assert "line 3" in bad[2]["message"]
    assert call(["data", "check", bad_file, "--max-bad-share", "0.5"], capsys)[0] == 0
    assert call(["data", "check", bad_file, "--max-bad-share", "0.49"], capsys)[0] == 1


def test_json_has_the_same_numbers_and_the_lengths_against_the_buckets(bad_file, capsys):
    assert main(["data", "check", bad_file, "--json", "--row-length", "100", "--prompt-length", "100"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert (found["rows"], found["bad_rows"], found["bad_share"], found["ok"]) == (10, 5, 0.5, False)
    (source,) = found["sources"]
    assert (source["read"], source["kept"], source["dropped"], source["duplicates"]) == (10, 5, 5, 1)
    assert (source["pictures"], source["missing"], source["broken"]) == (3, 1, 1)
    chat, prompt = source["lengths"]
    assert (chat["kind"], prompt["kind"]) == ("chat", "prompt")
    assert (chat["rows"], chat["bucket"], chat["cut"]) == (5, 100, 1)
    assert chat["cut_tokens"] == chat["longest"] - 100 > 200
    assert chat["cut_share"] == pytest.approx(1 / 5)
    assert sum(source["reasons"].values()) == 5


def test_good_rows_and_a_recipe_with_its_splits(tmp_path, capsys):
    picture(tmp_path / "red.png")
    names = {}
    for name in ("task", "paired", "text"):
        image = {} if name == "text" else {"images": ["red.png"]}
        rows = [{"id": f"{name}{i}", "messages": CHAT} | image for i in range(20)]
        names[name] = rows_file(tmp_path, f"{name}.jsonl", rows)
    flags = [word for name, file in names.items() for word in (f"--{name}", file)]
    code, out, _ = call(["data", "check", "own", *flags], capsys)
    assert code == 0
    for part in ("paired", "text_only", "sft 10, rl 7, val 1, test 2", "train 19, test 1", "0 of 60 rows are bad"):
        assert part in out
    # A text-only row with a picture is bad for the recipe, and so is a file that is not there.
    Path(names["text"]).write_text(Path(names["paired"]).read_text())
    Path(names["task"]).unlink()
    code, out, _ = call(["data", "check", "own", *flags], capsys)
    assert code == 1
    assert "20 images: a picture" in out
    assert "cannot be read" in out
    assert "task.jsonl" in out


def mmrole(folder):
    """25 dialogues of the raw layout: 20 kept in distribution, 1 out of it; 4 are left out."""
    picture(folder / "images" / "red.png")
    talk = [{"from": "human", "value": "What is it?"}, {"from": "The Lion", "value": "A lion, I say."}]
    good = {"image": "red.png", "conversations": talk}
    rows = [good] * 20
    rows += [good | {"image": "gone.png"}] * 2
    rows += [good | {"conversations": []}]
    rows += [good | {"conversations": [{"from": "human", "value": "?"}, {"from": "Nobody", "value": "!"}]}]
    raw = folder / "raw"
    for name, chosen in (("in-distribution", rows), ("out-of-distribution", [good])):
        dialogues = raw / "dialogues" / name
        path = dialogues / "comment" / "a.json" if name == "in-distribution" else dialogues / "comment.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps([row | {"id": f"{name} {i}"} for i, row in enumerate(chosen)]))
        profiles = raw / "profiles" / name / "detailed_profiles"
        profiles.mkdir(parents=True)
        (profiles / "The_Lion.json").write_text(json.dumps({"introduction": "A lion. " * 40}))
    return raw


def test_columns_and_folders_that_messages_name_are_flags_of_files(tmp_path, capsys):
    picture(tmp_path / "elsewhere" / "red.png")
    row = {"id": "r", "image": str(tmp_path / "elsewhere" / "red.png"), "messages": CHAT, "topic": "lions"}
    file = rows_file(tmp_path / "rows", "rows.jsonl", [row])
    code, out, _ = call(["data", "check", file], capsys)
    assert (code, "--facts topic" in out) == (1, True)
    code, out, _ = call(["data", "check", file, "--facts", "topic"], capsys)
    assert (code, "--picture-folders" in out) == (1, True)
    flags = ["--facts", "topic", "--picture-folders", str(tmp_path / "elsewhere")]
    assert call(["data", "check", file, *flags], capsys)[0] == 0
    code, out, _ = call(["data", "inspect", file, *flags], capsys)
    assert (code, "lions" in out) == (0, True)


def test_built_folders_are_checked_and_shown(tmp_path, capsys):
    picture(tmp_path / "red.png")
    rows = [{"id": f"r{i}", "messages": CHAT} | ({"image": "red.png"} if i < 3 else {}) for i in range(10)]
    file = Path(rows_file(tmp_path, "rows.jsonl", rows))
    build_pretraining([file], tmp_path / "built", Sampling(held_out=0.0))
    code, out, _ = call(["data", "check", str(tmp_path / "built")], capsys)
    assert code == 0
    assert out.count("no duplicates") == 2
    assert "3 read, 3 kept, 0 dropped examples 7 splits train 7 pictures 3:" in out
    code, out, _ = call(["data", "inspect", str(tmp_path / "built" / "paired"), "--id", "r1"], capsys)
    assert code == 0
    assert "[[A red lion.<|im_end|>]]" in out


def test_ids_are_compared_within_a_file_and_between_scored_splits(tmp_path, capsys):
    picture(tmp_path / "red.png")
    rows = [{"id": f"r{i}", "image": "red.png", "messages": CHAT} for i in range(20)]
    files = [rows_file(tmp_path, f"{name}.jsonl", rows) for name in ("paired", "task", "sft")]
    flags = ["--paired", files[0], "--task", files[1], "--sft", files[2]]
    code, out, _ = call(["data", "check", "own", *flags], capsys)  # as a run takes them
    assert (code, out.count("no duplicates")) == (0, 2)


def test_the_raw_mmrole_folder_is_counted_by_dialogue_with_the_reasons(tmp_path, capsys):
    raw = mmrole(tmp_path)
    args = ["data", "check", str(raw), "--image-root", str(tmp_path / "images"), "--row-length", "512"]
    args += ["--bad-out", str(tmp_path / "bad.jsonl"), "--max-bad-share", "0.5"]
    code, out, _ = call(args, capsys)
    assert code == 0
    assert "25 read, 21 kept, 4 dropped" in out
    assert "2 missing image" in out
    bad = [json.loads(line) for line in (tmp_path / "bad.jsonl").read_text().splitlines()]
    assert sorted(r["row"] for r in bad) == [20, 21, 22, 23]
    assert {Path(r["file"]).name for r in bad} == {"a.json"}
    assert "gone.png" in {r["picture"] for r in bad}
    assert main([*args, "--json"]) == 0
    (source,) = json.loads(capsys.readouterr().out)["sources"]
    prompts = [each for each in source["lengths"] if each["kind"] == "prompt"]
    assert {each["cut_share"] for each in prompts} == {1.0}  # the profile alone is longer than 128 tokens


def test_inspect_shows_a_row_as_the_model_sees_it(bad_file, capsys):
    assert main(["data", "inspect", bad_file, "--row", "1"]) == 0
    out = capsys.readouterr().out
    for part in (
        "rows.jsonl, row 1  id r1",
        "56 x 56 pixels, read as 112 x 84: 12 tokens",
        "<|vision_start|><|image_pad|> x 12<|vision_end|>What is there?<|im_end|>",
        "[[A red lion.<|im_end|>]]",
        "none cut; padded to 192",
        "reference A red lion.",
    ):
        assert part in out
    assert main(["data", "inspect", bad_file, "--id", "r6"]) == 0
    assert "BAD (broken picture)" in capsys.readouterr().out
    assert main(["data", "inspect", bad_file, "--row", "3"]) == 0
    assert "BAD (messages: expected a user message to answer)" in capsys.readouterr().out
    assert main(["data", "inspect", bad_file, "--row", "8", "--row-length", "100"]) == 0
    assert "cut on the right (longest bucket 100)" in capsys.readouterr().out
    assert main(["data", "inspect", bad_file, "--id", "nobody"]) == 1


def test_output_is_for_80_columns_and_a_pipe_that_closes_early_is_no_error(bad_file):
    command = f"{sys.executable} -m lam_jax data check {bad_file} | head -1"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == f"{bad_file}\n"
    assert "Traceback" not in done.stderr
    assert "Broken pipe" not in done.stderr


def test_lines_are_at_most_80_columns_where_names_allow(bad_file, capsys):
    main(["data", "check", bad_file])
    lines = capsys.readouterr().out.splitlines()
    assert [
        line for line in lines if len(line) > 80 and " " in line.strip() and str(Path(bad_file).parent) not in line
    ] == []


@pytest.mark.parametrize(
    ("args", "parts"),
    [
        (["check"], ["no file"]),
        (["check", "gone.jsonl"], ["gone.jsonl", "no such file", "own"]),
        (["mend"], ["'build', 'check', 'inspect'"]),
        (["check", "gone.jsonl", "--max-bad-share", "2"], ["--max-bad-share: found 2.0"]),
        (["inspect", "gone.jsonl", "--first", "0"], ["--first: found 0"]),
        (["check", "own"], ["--task", "--paired"]),
    ],
)
def test_bad_flags_end_with_code_2(args, parts, capsys):
    code, out, err = call(["data", *args], capsys)
    assert code == 2
    for part in parts:
        assert part in out + err


def test_what_there_is_is_listed(capsys):
    code, out, _ = call(["data", "--help"], capsys)
    assert code == 0
    assert all(name in out for name in ("check", "inspect", "build"))
    assert call(["data"], capsys)[0] == 2
    assert "--bad-out" in call(["data", "check", "--help"], capsys)[1]


def test_every_recipe_can_skip_bad_rows():
    args = ["--task", "t.jsonl", "--paired", "p.json", "--out", "x"]
    plain, flags = parse("own", args)
    assert (plain.bad_rows, plain.max_bad_share, flags.workers) == ("fail", 0.5, "auto")
    skips, flags = parse("own", [*args, "--bad-rows", "skip", "--max-bad-share", "0.1", "--workers", "3"])
    assert (skips.bad_rows, skips.max_bad_share, flags.workers) == ("skip", 0.1, 3)
    assert parse("demo", ["--out", "x", "--bad-rows", "skip"])[0].bad_rows == "skip"
