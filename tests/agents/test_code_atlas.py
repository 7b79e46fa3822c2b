"""`lam-jax codes` from the command to the page: what it holds, what it escapes, and what it refuses."""

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest

import lam_jax
from experiments.browser import CHROMIUM, Browser
from lam_jax.agents.atlas import AtlasSettings
from lam_jax.agents.settings import AgentError
from lam_jax.cli import main
from tests.agents import made_agents as made
from tests.cli.test_cli import call

EVIL = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def folders(tmp_path_factory, qwen_config, make_tokenizer) -> tuple[Path, Path]:
    """A token agent and a latent one."""
    folder = tmp_path_factory.mktemp("atlas")
    config = made.small(qwen_config)
    token = made.hugging_face(folder / "hf", config, make_tokenizer(default_system=True))
    return token, made.latent(folder / "latent", config, token)


@pytest.fixture(scope="module")
def made_atlas(folders, tmp_path_factory):
    """Arguments, the page and the numbers of four rows: two with pictures, one without an answer, one hostile."""
    folder = tmp_path_factory.mktemp("rows")
    rows = json.loads(made.write_rows(folder / "rows.json", 4).read_text())
    rows[0]["messages"][0]["content"] = rows[0]["messages"][1]["content"] = f"Two cats {EVIL}"
    rows[1]["id"] = f"row{EVIL}"
    rows[0]["facts"], rows[1]["facts"] = {"character": f"Mo{EVIL}"}, {"character": "Ada"}
    rows[3]["messages"].pop()
    (folder / "rows.json").write_text(json.dumps(rows))
    page, numbers = folder / "atlas.html", folder / "atlas.json"
    arguments = [
        "codes",
        str(folders[1]),
        "--rows",
        str(folder / "rows.json"),
        "--out",
        str(page),
        "--json",
        str(numbers),
    ]
    arguments += [
        "--prompts",
        "2",
        "--samples",
        "2",
        "--forced",
        "1",
        "--length",
        "4",
        "--positions",
        "16",
        "--batch",
        "4",
    ]
    assert main(arguments) == 0
    return page.read_text(), json.loads(numbers.read_text())


class Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags: list[tuple[str, dict]] = []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))


def tags(page: str) -> list[tuple[str, dict]]:
    parser = Tags()
    parser.feed(page)
    return parser.tags


def test_numbers_agree_with_each_other(made_atlas):
    _, atlas = made_atlas
    groups = {(g["kind"], g["name"]): g for g in atlas["groups"]}
    everything = groups["all", "all rows"]
    assert atlas["positions"] == everything["inverse"]["positions"] == sum(c["count"] for c in atlas["per_code"])
    parts = [groups["input", "with a picture"], groups["input", "text only"]]
    assert sum(g["rows"] for g in parts) == atlas["rows"] == 4
    assert sum(g["inverse"]["positions"] for g in parts) == atlas["positions"]
    assert atlas["own_answers"] == 1
    shares = [c["share"] for c in atlas["per_code"]]
    assert shares == pytest.approx(everything["inverse"]["usage"])
    assert sum(map(sum, atlas["transitions"]["counts"])) == atlas["positions"] - atlas["rows"]
    assert ("speaker", "Ada") in groups
    assert groups["task", "rows.json"]["rows"] == atlas["rows"]
    assert atlas["rl"] is None
    assert len(atlas["forced"]["prompts"][0]["answers"]) == atlas["codes"] == 8
    assert {s["sign"] for s in atlas["signs"]} >= {"Dull answers", "Unaligned projector", "Codes without effect"}
    assert atlas["projector"]["positions"] == parts[0]["inverse"]["positions"]


def test_the_page_needs_nothing_else_and_holds_every_code(made_atlas):
    page, atlas = made_atlas
    found = tags(page)
    ids = {attrs.get("id") for _, attrs in found}
    assert {f"code-{code}" for code in range(atlas["codes"])} <= ids
    targets = {attrs["href"] for tag, attrs in found if tag == "a"}
    assert all(target.startswith("#") and target[1:] in ids for target in targets)
    for tag, attrs in found:
        assert tag not in ("link", "iframe", "object", "embed", "base", "form")
        assert attrs.get("src", "data:").startswith("data:")
        assert not any(name.startswith("on") for name in attrs)
        if tag == "img":
            assert attrs["alt"]
    assert "http://" not in page
    assert "https://" not in page
    assert "default-src 'none'" in page
    assert len(re.findall(r"\.p\d+\{background-image:url\(data:image/jpeg", page)) >= 1


def test_text_of_rows_is_escaped(made_atlas):
    page, _ = made_atlas
    assert EVIL not in page
    assert "&lt;script&gt;" in page
    assert [tag for tag, _ in tags(page)].count("script") == 1


def test_a_token_agent_is_refused(folders, tmp_path, capsys):
    code, _, err = call(["codes", str(folders[0]), "--rows", "x.json", "--out", str(tmp_path / "a.html")], capsys)
    assert code == 2
    assert "found an agent in the token space, which has no codes" in err, err
    assert not (tmp_path / "a.html").exists()


def test_what_is_missing_is_named(folders, tmp_path, capsys):
    out = ["--out", str(tmp_path / "a.html")]
    code, _, err = call(["codes", str(folders[1]), *out], capsys)
    assert (code, "name a file of rows, as --rows FILE" in err) == (2, True), err
    code, _, err = call(["codes", str(tmp_path / "none"), *out], capsys)
    assert (code, "is not there, expected the folder of a run" in err) == (2, True), err
    (tmp_path / "empty.json").write_text("[]")
    code, _, err = call(["codes", str(folders[1]), "--rows", str(tmp_path / "empty.json"), *out], capsys)
    assert (code, "no rows" in err) == (1, True), err
    with pytest.raises(AgentError, match="is a folder, expected a file"):
        lam_jax.code_atlas(folders[1], out=tmp_path)
    with pytest.raises(ValueError, match=r"AtlasSettings.rows is 0"):
        AtlasSettings(rows=0)
    assert not (tmp_path / "a.html").exists()


def test_text_only_rows_alone(folders, tmp_path):
    """No picture anywhere: the projector is not measured, and nothing divides by nothing."""
    rows = [row for row in json.loads(made.write_rows(tmp_path / "r.json", 3).read_text()) if "image" not in row]
    (tmp_path / "r.json").write_text(json.dumps(rows))
    settings = AtlasSettings(prompts=1, samples=1, forced=0, positions=8, batch=4)
    atlas = lam_jax.code_atlas(folders[1], rows=tmp_path / "r.json", out=tmp_path / "a.html", settings=settings)
    sign = next(s for s in atlas["signs"] if s["sign"] == "Unaligned projector")
    assert sign["status"] == "not measured"
    assert {g["name"] for g in atlas["groups"] if g["kind"] == "input"} == {"text only"}
    assert "background-image" not in (tmp_path / "a.html").read_text()


FOCUS = """(() => {
  const one = document.activeElement;
  return one.id || (one.closest('details.code') || {}).id || one.getAttribute('href') || one.className || one.tagName;
})()"""


@pytest.fixture(scope="module")
def browser(made_atlas, tmp_path_factory):
    """The page in a real browser, where there is one."""
    if not any(map(shutil.which, CHROMIUM)):
        pytest.skip("no Chromium")
    page = tmp_path_factory.mktemp("page") / "atlas.html"
    page.write_text(made_atlas[0])
    with Browser() as browser:
        browser.open(page)
        yield browser


def test_a_browser_runs_nothing_of_the_rows_and_complains_of_nothing(browser):
    assert browser.problems() == []
    assert browser.run("document.scripts.length") == 1
    assert browser.run("document.body.textContent").count(EVIL) > 3


def test_every_code_is_reached_by_the_keyboard_and_opened(browser, made_atlas):
    browser.run("document.activeElement.blur()")
    met = []
    while not met or met[-1] != "BODY" or len(met) == 1:
        browser.press("Tab")
        met.append(browser.run(FOCUS))
        assert len(met) < 400
    codes = [f"code-{c}" for c in range(made_atlas[1]["codes"])]
    assert set(met) >= {"#health", "#forced", "find", "open-all", "close-all", *codes}
    browser.run("document.querySelector('#code-3 summary').focus()")
    browser.press("Enter")
    assert browser.run("document.getElementById('code-3').open") is True
    browser.press("Enter")
    assert browser.run("document.getElementById('code-3').open") is False


def test_the_filter_leaves_what_has_the_words(browser, made_atlas):
    def left(words):
        browser.run("document.getElementById('find').value = ''; document.getElementById('find').focus()")
        for letter in words:
            browser.press("Space" if letter == " " else letter)
        return browser.run("[...document.querySelectorAll('details.code:not([hidden])')].map(one => one.id)")

    per_code = made_atlas[1]["per_code"]
    texts = [[t["text"].lower() for t in (*one["tokens"], *one["next"][0]["raised"])] for one in per_code]
    word = next(t.strip() for own in texts for t in own if len(t.strip()) > 2 and t.strip().isalpha())
    assert set(left(word)) == {f"code-{c}" for c, own in enumerate(texts) if any(word in t for t in own)}
    assert left("zzzzz") == []
    assert browser.run("document.getElementById('found').textContent") == f"0 of {len(per_code)} codes"
    numbered = [f"code-{c}" for c, own in enumerate(texts) if c == 5 or "5" in [t.strip() for t in own]]
    assert sorted(left("5")) == sorted(numbered)
    browser.run("location.hash = '#code-2'")
    browser.run("new Promise(done => setTimeout(done, 50))")
    assert browser.run("document.getElementById('code-2').open && !document.getElementById('code-2').hidden")
    assert browser.run(FOCUS) == "code-2"
