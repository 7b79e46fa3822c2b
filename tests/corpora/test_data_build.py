"""`lam-jax data build`: its flags, what it prints, and what is trained on it."""

import itertools
import json

import pytest
import tyro

from lam_jax.cli.data_build import Build
from lam_jax.corpora.built import BuiltRows
from lam_jax.errors import BadSettingError
from lam_jax.recipe import Recipe
from lam_jax.recipes import own
from tests.corpora.made import lines, picture, tar


def command(*words) -> Build:
    return tyro.cli(Build, args=[str(word) for word in words], config=(tyro.conf.OmitArgPrefixes,))


def printed(capsys) -> str:
    return capsys.readouterr().out.replace("\n", "|")


def test_it_prints_what_was_read_kept_and_left_out(tmp_path, capsys):
    source = lines(tmp_path / "x.jsonl", [*({"text": f"Text {i}."} for i in range(30)), {"text": ""}, 5])
    command("slimpajama", source, "--rows", 20, "--out", tmp_path / "out").run()
    text = printed(capsys)
    assert f"{tmp_path / 'out'}: built|  read 32, kept 20 (train 19, test 1), dropped 2|" in text
    assert f"1 no object, first in {source}, row 31|" in text
    assert f"1 no text, first in {source}, row 30|" in text
    assert "10 usable rows were not drawn" in text
    command("slimpajama", source, "--rows", 20, "--out", tmp_path / "out").run()
    assert "there already, built from the same arguments" in printed(capsys)
    with pytest.raises(BadSettingError, match=r"other arguments \(rows: found 20, expected 300000\)"):
        command("slimpajama", source, "--out", tmp_path / "out").run()
    command("slimpajama", source, "--rows", 0, "--held-out", 0, "--out", tmp_path / "all").run()
    assert len(BuiltRows(str(tmp_path / "all")).read(tmp_path, "train")) == 30


def test_both_sides_are_corpora_of_a_recipe(tmp_path, capsys):
    data = picture(kind="PNG")
    members = [(f"{i}.{end}", data if end == "png" else b"A cat.") for i in range(6) for end in ("png", "txt")]
    texts = lines(tmp_path / "t.jsonl", [{"text": f"Text {i}."} for i in range(12)])
    command("cc12m", tar(tmp_path / "a.tar", members), "--out", tmp_path / "c").run()
    command("slimpajama", texts, "--out", tmp_path / "s").run()
    command("pretraining", tmp_path / "c", tmp_path / "s", "--out", tmp_path / "both", "--held-out", 0.2).run()
    text = printed(capsys)
    assert f"{tmp_path / 'both' / 'paired'}: built|  read 6, kept 6 (train 5, test 1), dropped 0|" in text
    assert "train stands for 10 rows, as many as the other side has" in text
    both = str(tmp_path / "both")
    recipe = own.recipe("task.jsonl", both, text=both)
    assert recipe.paired.rows == BuiltRows(f"{both}/paired")
    assert recipe.text_only.rows == BuiltRows(f"{both}/text_only")
    assert len(recipe.paired.rows.read(tmp_path, recipe.paired.train)) == 10
    assert recipe.paired.rows.read(tmp_path, recipe.paired.held_out)[0].images == (data,)
    assert Recipe.from_json(recipe.to_json()) == recipe
    assert own.recipe("task.jsonl", str(tmp_path / "c")).paired.rows == BuiltRows(str(tmp_path / "c"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("cc12m",), "SOURCES: found none"),
        (("cc12m", "a", "--rows", -3), "--rows: found -3"),
        (("cc12m", "a", "--judge", "http://x", "--judge-model", "m"), "--judge: only pcogalign"),
        (("pcogalign", "a", "--judge", "http://x"), "expected both or none"),
        (("pcogalign", "a", "b"), "expected the one raw folder of pcogalign"),
        (("mmrole", "a", "--rows", 5), "the splits of mmrole have their own sizes"),
    ],
)
def test_bad_flags_are_named(words, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        Build(
            kind=words[0],
            sources=tuple(tmp_path / word for word in words[1:] if word in ("a", "b")),
            out=tmp_path,
            **{k.lstrip("-").replace("-", "_"): v for k, v in itertools.pairwise(words) if str(k).startswith("--")},
        )


def test_mmrole_and_the_benchmark_by_the_command(tmp_path, capsys):
    raw = tmp_path / "raw"
    (raw / "images").mkdir(parents=True)
    (raw / "images" / "a.png").write_bytes(picture(kind="PNG"))
    turns = [{"role": "human", "value": "Q"}, {"role": "Bo", "value": "A"}]
    for distribution, name in (("in-distribution", "comment/Bo.json"), ("out-of-distribution", "comment.json")):
        path = raw / "dialogues" / distribution / name
        path.parent.mkdir(parents=True)
        path.write_text(
            json.dumps([{"id": f"{distribution}{i}", "image": "a.png", "conversations": turns} for i in range(20)])
        )
        profiles = raw / "profiles" / distribution / "detailed_profiles"
        profiles.mkdir(parents=True)
        (profiles / "Bo.json").write_text(json.dumps({"introduction": "A wizard."}))
    command("mmrole", raw, "--out", tmp_path / "m").run()
    assert "read 40, kept 40 (sft 9, rl 7, sft_val 1, rl_val 1, id_test 2, ood_test 20), dropped 0" in printed(capsys)
    bench = {
        "individual_RoleSet": {"Home": "Parent"},
        "query": "What?",
        "golden_response": "Rest.",
        "image": {"file_path": "a.png"},
        "eval_info": {"ImageDesc": "A cat.", "location": "Home", "EvalHelp": "Kind words."},
    }
    for name in ("HCMAS-train", "HCMAS-test", "HCSHR-test"):
        (raw / f"{name}.json").write_text(json.dumps([bench] * 10))
    command("pcogalign", raw, "--image-root", raw / "images", "--out", tmp_path / "p").run()
    assert "read 27, kept 27 (sft 4, rl 2, val 1, ls1 10, ls2 10), dropped 0" in printed(capsys)
