"""`lam-jax steer` on a made-up agent: a strong bias gets what it asks for, and too little to go by is refused."""

import json

import pytest

from lam_jax.cli import main
from tests.agents import made_agents as made
from tests.cli.test_cli import call


@pytest.fixture(scope="module")
def folder(tmp_path_factory, qwen_config, make_tokenizer):
    folder = tmp_path_factory.mktemp("steer")
    config = made.small(qwen_config)
    token = made.hugging_face(folder / "hf", config, make_tokenizer(default_system=True))
    return made.latent(folder / "latent", config, token)


@pytest.fixture(scope="module")
def rows(folder):
    """Of every two neighbours one answer names trees and one does not, in contrast sets and prompts alike."""
    chats = []
    for i in range(40):
        answer = "The tree, the tree." if i // 2 % 2 else "There are two cats."
        chat = [{"role": "user", "content": "What is in the picture?"}, {"role": "assistant", "content": answer}]
        chats.append({"id": f"r{i}", "messages": chat})
    (folder.parent / "rows.json").write_text(json.dumps(chats))
    return folder.parent / "rows.json"


def arguments(folder, rows, *more):
    short = [
        "--prompts",
        "2",
        "--samples",
        "1",
        "--strengths",
        "1000",
        "--loss",
        "1000",
        "--temperature",
        "0",
        "--token-temperatures",
        "0",
    ]
    return ["steer", str(folder), "--rows", str(rows), *short, *more]


def test_a_strong_bias_on_tokens_says_the_word(folder, rows, tmp_path):
    out = tmp_path / "steer.json"
    assert main(arguments(folder, rows, "--property", "contains:tree", "--out", str(out))) == 0
    found = json.loads(out.read_text())
    assert (found["contrast_rows"], found["prompts"]) == (20, 2)
    (one,) = found["properties"]
    assert (one["having"], one["lacking"]) == (10, 10)
    table = {row["method"]: row for row in one["table"]}
    assert set(table) == {"codes", "tokens, T 0", "prompt"}
    assert (table["tokens, T 0"]["share"], table["tokens, T 0"]["strength"]) == (1.0, 1000.0)
    assert all(point["fluency"] < 0 for points in one["curves"].values() for point in points)
    assert [point["strength"] for point in one["curves"]["codes"]] == [0.0, 1000.0]
    assert "tree" in one["tokens"][0]["text"]


def test_what_cannot_be_measured_is_refused(folder, rows, capsys):
    code, _, err = call(arguments(folder, rows, "--property", "question"), capsys)
    assert (code, "found 0 answers with it and 20 without, expected at least 8 of each" in err) == (2, True), err
    code, _, err = call(arguments(folder, rows, "--property", "rhymes"), capsys)
    assert (code, "found 'rhymes', expected long, question" in err) == (2, True), err
    code, _, err = call(arguments(folder, rows, "--per-set", "12"), capsys)
    assert (code, "found 12 rows with answers, expected at least 32" in err) == (2, True), err
