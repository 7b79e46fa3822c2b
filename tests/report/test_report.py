"""The HTML report of a whole made-up run: one file, the run's own numbers, pictures and coloured tokens."""

import base64
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from lam_jax.report import report
from lam_jax.report.current import is_current, refresh_report
from lam_jax.report.report import write_report
from tests.report import made_up_run

VOID = {"meta", "img", "source", "link", "br", "hr", "input"}


class Page(HTMLParser):
    """The parts of a page that the tests look at; raises on tags that do not nest."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict]] = []
        self.data: list[tuple[float, str]] = []
        self.spans: list[tuple[dict, str]] = []
        self.words: list[str] = []
        self.feed(html)
        self.close()
        assert not self.open, f"left open: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        tag, attrs = self.tags[-1] if self.tags else ("", {})
        if self.open and self.open[-1] == "style":
            return
        self.words.append(data)
        if tag == "data" and self.open[-1] == "data":
            self.data.append((float(attrs["value"]), data))
        if tag == "span" and "data-code" in attrs and self.open[-1] == "span":
            self.spans.append((attrs, data))

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def numbers(self) -> set[float]:
        return {value for value, _ in self.data}


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = made_up_run.write_run(tmp_path_factory.mktemp("run"))
    assert write_report(folder) == folder / "report.html"
    return folder


@pytest.fixture(scope="module")
def html(run_dir: Path) -> str:
    return (run_dir / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    return Page(html)


def test_the_page_needs_nothing_from_outside(html: str, page: Page) -> None:
    assert not re.findall(r"(?:https?:)?//[a-z]", re.sub(r"base64,[A-Za-z0-9+/=]+", "", html))
    assert "url(" not in html
    assert "@import" not in html
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in page.tags}
    addresses = [attrs[key] for _, attrs in page.tags for key in ("src", "srcset") if key in attrs]
    assert len(addresses) > 20
    assert all(address.startswith("data:image/png;base64,") for address in addresses)
    links = [attrs["href"] for tag, attrs in page.tags if tag == "a"]
    ids = {attrs.get("id") for _, attrs in page.tags}
    assert links
    assert all(link[0] == "#" and link[1:] in ids for link in links)


def test_every_score_and_its_interval_is_on_the_page(page: Page) -> None:
    shown = page.numbers()
    for row in made_up_run.results()["scores"]:
        for key in ("mean", "low", "high", "diversity", "diversity_reciprocal_mean", "distinct", "length"):
            assert row[key] in shown, (row["task"], row["space"], key)
        if row["phase"] == "rl":
            for name, interval in row["dimensions"].items():
                assert set(interval.values()) <= shown, name


def test_gains_speed_health_base_and_phases_are_on_the_page(page: Page) -> None:
    results, shown = made_up_run.results(), page.numbers()
    for gain in results["gain"]:
        assert {gain[key] for key in ("prompts", "before", "after", "difference", "paired_se")} <= shown
        assert gain["difference"] / gain["paired_se"] in shown
    latent, token = (next(row for row in results["speed"] if row["space"] == space) for space in ("latent", "token"))
    for key in ("rollout_s", "update_s", "step_s", "rollout_tokens_per_s", "update_tokens_per_s"):
        assert {latent[key], token[key], latent[key] / token[key]} <= shown, key
    assert {latent["trainable_parameters"], token["trainable_parameters"]} <= shown
    assert set(results["base"].values()) <= shown
    for kind in ("image_text", "text_only"):
        assert set(results["latent"][kind].values()) <= shown
    assert {results["latent"][key] for key in ("cloning_accuracy", "majority_share")} <= shown
    for row in results["reach"]:
        assert {value for key, value in row.items() if key not in ("rows", "after")} <= shown
    for row in results["reach_scores"]:
        assert {row["policy"], row["best_of"]["2"], row["best_of"]["8"], row.get("random", row["policy"])} <= shown
    assert {phase["seconds"] for phase in results["phases"]} <= shown
    assert {sum(phase[key] for phase in results["phases"]) for key in ("seconds", "compile_seconds")} <= shown


def test_what_is_printed_rounds_the_exact_number_beside_it(page: Page) -> None:
    for value, text in page.data:
        digits = len(text.partition(".")[2])
        assert abs(float(text.replace(",", "").replace("−", "-")) - value) <= 0.5000001 * 10**-digits, (value, text)


def test_all_twenty_fluency_samples_are_there_unedited(page: Page) -> None:
    samples = made_up_run.results()["fluency"]["samples"]
    assert len(samples) == 20
    assert all(sample in page.words for sample in samples)


def test_tokens_carry_their_code_and_the_token_space_has_none(html: str, page: Page) -> None:
    samples = made_up_run.results()["samples"]
    latent = [answer for sample in samples for answer in sample["answers"] if answer["space"] == "latent"]
    expected = [pair for answer in latent for pair in zip(answer["tokens"], answer["actions"], strict=True)]
    assert [(text, int(attrs["data-code"])) for attrs, text in page.spans] == expected
    assert all(attrs["class"] == f"t c{attrs['data-code']}" for attrs, _ in page.spans)
    colours = dict(re.findall(r"^\.c(\d+)\{background:(#[0-9a-f]{6})", html, re.MULTILINE))
    assert sorted(map(int, colours)) == list(range(made_up_run.CODES))
    assert len(set(colours.values())) == made_up_run.CODES
    token_texts = [answer["text"] for answer in samples[0]["answers"] if answer["space"] == "token"]
    assert len(set(token_texts)) == 2
    assert all(page.words.count(text) == len(samples) for text in token_texts)


def test_conversations_show_prompt_reference_scores_and_picture(run_dir: Path, html: str, page: Page) -> None:
    for sample in made_up_run.results()["samples"]:
        assert sample["reference"] in page.words
        assert all(message["content"] in page.words for message in sample["prompt"])
        assert {answer["score"] for answer in sample["answers"]} <= page.numbers()
        picture = base64.b64encode((run_dir / sample["image"]).read_bytes()).decode()
        assert picture in html


def test_the_answer_after_sft_stands_beside_the_one_after_rl(html: str) -> None:
    headings = re.findall(r'<b class="\w+">(\w+ space, after \w+)</b><span>score <data value="([0-9.]+)">', html)
    expected = [
        ("Latent space, after SFT", "0.8125"),
        ("Latent space, after RL", "0.9375"),
        ("Token space, after SFT", "0.6875"),
        ("Token space, after RL", "0.8125"),
    ]
    assert headings == expected * len(made_up_run.results()["samples"])
    assert html.count('<div class="answers">') == 2 * len(made_up_run.results()["samples"]), (
        "a row of two for each space"
    )


def test_boxes_that_scroll_and_codes_are_reached_by_the_keyboard(html: str, page: Page) -> None:
    boxes = [attrs for tag, attrs in page.tags if tag == "div" and attrs.get("class") == "scroll"]
    assert len(boxes) == sum(tag == "table" for tag, _ in page.tags)
    assert all((box["tabindex"], box["role"]) == ("0", "region") and box["aria-label"] for box in boxes)
    coded = [attrs for _, attrs in page.tags if attrs.get("class") == "answer coded"]
    latent = [a for s in made_up_run.results()["samples"] for a in s["answers"] if a["space"] == "latent"]
    assert len(coded) == len(latent)
    assert all((answer["tabindex"], answer["role"]) == ("0", "group") for answer in coded)
    assert ".coded:focus .t::after { content: attr(data-code)" in html
    assert ":focus-visible { outline:" in html
    assert all(attrs.get("scope") in ("col", "colgroup") for tag, attrs in page.tags if tag == "th")


@pytest.mark.skipif(not (shutil.which("chromium") and shutil.which("pdftotext")), reason="no chromium, no pdftotext")
def test_paper_has_all_columns_and_what_was_closed(run_dir: Path, tmp_path: Path) -> None:
    page, printed = run_dir / "report.html", tmp_path / "report.pdf"
    browser = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--no-pdf-header-footer"]
    subprocess.run([*browser, f"--print-to-pdf={printed}", page.as_uri()], check=True, capture_output=True, timeout=120)
    text = subprocess.run(["pdftotext", "-layout", printed, "-"], check=True, capture_output=True, text=True).stdout
    results = made_up_run.results()
    for row in results["scores"]:
        assert f"{row['low']:.3f} to {row['high']:.3f}" in text
        assert f"{row['length']:.1f}" in text, "the last column of the widest table"
    closed = [row for row in results["scores"] if (row["task"], row["split"], row["phase"]) == ("help", "ood", "rl")]
    for interval in (i for row in closed for i in row["dimensions"].values()):
        assert f"{interval['low']:.3f} to {interval['high']:.3f}" in text
    assert "rl.algorithm" in text, "of the settings, which are closed"
    places = subprocess.run(["pdftotext", "-bbox", printed, "-"], check=True, capture_output=True, text=True).stdout
    (paper,) = set(re.findall(r'<page width="([0-9.]+)"', places))
    furthest = max(map(float, re.findall(r'<word .* xMax="([0-9.]+)"', places)))
    assert furthest < float(paper) - 30, "within the margins of 12 mm, 34 points"
    assert results["samples"][0]["prompt"][0]["content"][:20] in " ".join(text.split()), "the system prompt, closed too"


def test_the_report_is_written_again_only_when_something_changed(tmp_path: Path) -> None:
    folder = made_up_run.write_run(tmp_path, {"scores": [], "samples": []}, [])
    path = refresh_report(folder)
    first = path.read_text()
    path.write_text(first + "kept")
    assert refresh_report(folder).read_text() == first + "kept"
    for change in (
        lambda: path.unlink(),
        lambda: (folder / "results.json").write_text('{"base": {"loss": 0.123}}'),
        lambda: (folder / "metrics.jsonl").write_text('{"phase": "sft_latent_help", "step": 1, "loss": 1.0}\n'),
        lambda: (folder / "samples" / "help.png").write_bytes((folder / "samples" / "role_play.png").read_bytes()),
        lambda: path.write_text("<html>"),
    ):
        change()
        assert not is_current(folder)
        refresh_report(folder)
        assert is_current(folder)
    assert "0.123" in path.read_text()


def test_plots_are_written_as_pictures(run_dir: Path) -> None:
    names = {path.stem for path in (run_dir / "plots").glob("*.png")}
    for task in made_up_run.TASKS:
        assert f"scores_{task}" in names
        assert {f"rl_{task}_reward_{by}" for by in ("samples", "seconds", "flops")} <= names
        assert {f"rl_{task}_{curve}" for curve in ("reward", "kl", "entropy", "clip_fraction", "length")} <= names
    assert {f"stage{n}_loss" for n in ("1_inverse", "2_projector", "3_joint", "4_cloning")} <= names
    assert {"stage4_cloning_accuracy", "sft_token_help_loss", "rl_help_validation"} <= names
    assert {"code_usage", "code_usage_text_only", "health_perplexity", "health_used_share"} <= names
    for path in (run_dir / "plots").glob("*.png"):
        with Image.open(path) as image:
            image.load()
            # A figure without marks would be one colour for the page and a few greys for the axes.
            assert len(image.convert("RGB").getcolors(maxcolors=1 << 20)) > 20, path.name


def test_the_page_is_complete_and_nothing_is_called_absent(run_dir: Path, page: Page) -> None:
    assert "Not in this run" not in page.text
    assert not list(run_dir.glob("*.partial"))


def test_hostile_text_stays_text(tmp_path: Path) -> None:
    attack = "<script>alert('x')</script><img src=q onerror=alert(1)>\"'{{ 7*10007 }}</style>"
    results = made_up_run.results()
    results["samples"] = results["samples"][:1]
    sample = results["samples"][0]
    sample["reference"] = sample["prompt"][0]["content"] = sample["id"] = attack
    sample["answers"][0]["tokens"][0] = sample["answers"][1]["text"] = attack
    sample["answers"][0]["dimensions"] = {attack: attack}
    results["fluency"]["samples"][3] = attack
    results["config"][attack] = attack
    results["base"][attack] = 0.5
    results["phases"][0]["name"] = attack
    for row in results["scores"] + results["gain"] + results["speed"]:
        if row["task"] == "help":
            row["task"] = "../../" + attack + "$\\frac{"
    folder = made_up_run.write_run(tmp_path / "deep" / "run", results, [])
    html = write_report(folder).read_text(encoding="utf-8")
    page = Page(html)
    assert not {"script", "iframe"} & {tag for tag, _ in page.tags}
    assert not any(key.startswith("on") for _, attrs in page.tags for key in attrs)
    assert not any(attrs.get("src") == "q" for _, attrs in page.tags)
    assert page.words.count(attack) >= 5
    assert "70049" not in re.sub(r"base64,[A-Za-z0-9+/=]+", "", html)
    written = {path for path in tmp_path.rglob("*") if path.is_file()}
    assert all(path.is_relative_to(folder) for path in written)


def test_a_failed_write_keeps_the_old_page(run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = made_up_run.write_run(tmp_path, {"scores": []}, [])
    (folder / "report.html").write_text("old page")

    def full_disk(self: Path, *args: object, **kwargs: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(report.Path, "write_text", full_disk)
    with pytest.raises(OSError, match="No space left"):
        write_report(folder)
    assert (folder / "report.html").read_bytes() == b"old page"
