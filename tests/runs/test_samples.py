"""Sample answers and dumped rollouts: what stands in the files, and that no step is there twice."""

import io
import json
import re

import pytest
from PIL import Image

from lam_jax.data.schemas import Example
from lam_jax.runs import samples_page
from lam_jax.runs.rollouts import RolloutLog
from lam_jax.runs.samples import Answer, SampleLog

CHAT = ({"role": "user", "content": "Which <b>colour</b>?"}, {"role": "assistant", "content": "Red & blue."})
GOOD = Answer("Red.", [9, 8, 2], [5, 0, 3], [-0.5, -0.25, -1.0], True, 0.75, {"colour": 1.0, "length": 0.5})
CUT = Answer("Blue blue", [7, 7], [1, 1], [-2.0, -2.0], False, None, {}, "no reply from the judge")


def picture(colour: str = "red", size: tuple[int, int] = (20, 10), kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, kind)
    return buffer.getvalue()


def row(name: str, *pictures: bytes) -> Example:
    return Example(name, CHAT, pictures)


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def opened():
    """Opens logs, which are closed after the test."""
    logs = []

    def open_log(folder, kind=SampleLog, **arguments):
        logs.append(kind(folder, **arguments))
        return logs[-1]

    yield open_log
    for log in logs:
        log.close()


def write(log: SampleLog, phase: str = "rl", step: int = 1, example: Example | None = None) -> None:
    log.write(phase, step, 30, [(example or row("q"), [GOOD, CUT])], coded=True)


def sections(folder) -> list[str]:
    return re.findall(r"<h2>(\w+, step \d+ of \d+)", (folder / "samples.html").read_text())


def test_a_line_holds_prompt_picture_reference_and_answers(opened, tmp_path):
    red = picture()
    log = opened(tmp_path)
    log.write("rl_latent_help", 10, 30, [(row("help/7 é", red), [GOOD, CUT]), (row("none"), [GOOD])], coded=True)
    first, second = lines(tmp_path / "samples.jsonl")
    assert (first["phase"], first["step"], first["steps"], first["id"]) == ("rl_latent_help", 10, 30, "help/7 é")
    assert first["prompt"] == [CHAT[0]]
    assert first["reference"] == "Red & blue."
    (name,) = first["pictures"]
    assert re.fullmatch(r"samples/help_7___[0-9a-f]{12}\.png", name)
    assert (tmp_path / name).read_bytes() == red
    assert first["answers"] == [
        {
            "text": "Red.",
            "codes": [5, 0, 3],
            "logp": -1.75,
            "length": 3,
            "finished": True,
            "reward": 0.75,
            "parts": {"colour": 1.0, "length": 0.5},
            "failed": False,
            "error": None,
        },
        {
            "text": "Blue blue",
            "codes": [1, 1],
            "logp": -4.0,
            "length": 2,
            "finished": False,
            "reward": None,
            "parts": {},
            "failed": True,
            "error": "no reply from the judge",
        },
    ]
    assert second["pictures"] == []


def test_a_row_without_a_reference_is_shown_without(opened, tmp_path):
    write(opened(tmp_path), example=Example("q", CHAT[:1]))
    (line,) = lines(tmp_path / "samples.jsonl")
    assert (line["prompt"], line["reference"]) == ([CHAT[0]], None)
    assert '"reference"' not in (tmp_path / "samples.html").read_text()


def test_tokens_are_no_codes(opened, tmp_path):
    opened(tmp_path).write("rl", 1, 2, [(row("q"), [GOOD])], coded=False)
    assert lines(tmp_path / "samples.jsonl")[0]["answers"][0]["codes"] is None


def test_a_picture_is_written_once_under_a_name_of_its_own(opened, tmp_path):
    log = opened(tmp_path)
    jpeg = picture(kind="JPEG")
    for step, example in enumerate([row("a/b", picture()), row("a b", picture("blue")), row("c", jpeg)], start=1):
        write(log, step=step, example=example)
    names = sorted(path.name for path in (tmp_path / "samples").iterdir())
    assert [(name[:2], name.rpartition(".")[2]) for name in names] == [("a_", "png"), ("a_", "png"), ("c_", "jpg")]
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "samples").iterdir()}
    write(log, step=4, example=row("a/b", picture()))
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "samples").iterdir()}


def test_a_resumed_phase_has_no_step_twice_and_others_stay(opened, tmp_path):
    log = opened(tmp_path)
    for phase, step in (("rl_a", 1), ("rl_a", 2), ("rl_b", 1), ("rl_b", 10), ("rl_b", 20)):
        write(log, phase, step)
    log.close()
    with (tmp_path / "samples.jsonl").open("a") as file:
        file.write('{"phase": "rl_b", "step": 30, "pro')  # killed there
    again = opened(tmp_path)
    again.begin("rl_b", 10)
    write(again, "rl_b", 20)
    found = [(r["phase"], r["step"]) for r in lines(tmp_path / "samples.jsonl")]
    assert found == [("rl_a", 1), ("rl_a", 2), ("rl_b", 1), ("rl_b", 10), ("rl_b", 20)]
    assert sections(tmp_path)[:2] == ["rl_b, step 20 of 30", "rl_b, step 10 of 30"]
    again.begin("rl_b", None)
    assert [r["phase"] for r in lines(tmp_path / "samples.jsonl")] == ["rl_a", "rl_a"]
    assert sections(tmp_path) == ["rl_a, step 2 of 30", "rl_a, step 1 of 30"]


def test_the_page_is_self_contained_escaped_and_newest_first(opened, tmp_path):
    log = opened(tmp_path)
    for step in (1, 10):
        write(log, step=step, example=row("<script>q</script>", picture()))
    page = (tmp_path / "samples.html").read_text()
    assert "default-src 'none'; img-src data:; style-src 'unsafe-inline'" in page
    assert re.findall(r'(?:src|href)="(?!data:image/png;base64,)', page) == []
    assert "<script" not in page
    assert "Which &lt;b&gt;colour&lt;/b&gt;?" in page
    assert "Red &amp; blue." in page
    assert page.index("step 10 of 30") < page.index("step 1 of 30")
    for part in ("reward 0.750", "colour 1.000", "reward call failed: no reply from the judge", "log-prob −1.75"):
        assert part in page
    assert page.count("cut at the greatest length") == 2
    assert ">5 0 3<" in page
    assert not list(tmp_path.glob("*.new"))


def test_the_page_is_bounded_and_says_so(opened, tmp_path, monkeypatch):
    log = opened(tmp_path)
    for step in range(1, 21):
        write(log, step=step)
    assert sections(tmp_path) == [f"rl, step {step} of 30" for step in range(20, 8, -1)]
    assert "The newest 12 of 20 steps that were looked at" in (tmp_path / "samples.html").read_text()
    monkeypatch.setattr(samples_page, "LARGEST", 2500)
    write(log, step=21)
    assert sections(tmp_path) == ["rl, step 21 of 30", "rl, step 20 of 30"]
    monkeypatch.setattr(samples_page, "LARGEST", 10)
    write(log, step=22)
    assert sections(tmp_path) == ["rl, step 22 of 30"], "at least the newest, whatever its size"


def test_large_pictures_and_long_texts_are_made_small_on_the_page_only(opened, tmp_path):
    buffer = io.BytesIO()
    Image.merge("RGB", [Image.effect_noise((1000, 800), 80) for _ in range(3)]).save(buffer, "PNG")
    text = Answer("word " * 2000, [1], [1], [-1.0], True, 1.0)
    opened(tmp_path).write("rl", 1, 1, [(row("q", buffer.getvalue()), [text])], coded=False)
    page = (tmp_path / "samples.html").read_text()
    assert len(page) < 100_000 < len(buffer.getvalue())
    assert "data:image/jpeg" in page
    assert "6,000 more characters in samples.jsonl" in page
    (line,) = lines(tmp_path / "samples.jsonl")
    assert line["answers"][0]["text"] == text.text
    assert (tmp_path / line["pictures"][0]).read_bytes() == buffer.getvalue()


def test_a_picture_that_is_gone_or_elsewhere_is_not_on_the_page(opened, tmp_path):
    folder = tmp_path / "run"
    log = opened(folder)
    write(log, example=row("q", picture()))
    log.close()
    (line,) = lines(folder / "samples.jsonl")
    (tmp_path / "secret.png").write_bytes(picture())
    for step, name in ((2, "../secret.png"), (3, "samples/gone.png")):
        with (folder / "samples.jsonl").open("a") as file:
            file.write(json.dumps(line | {"step": step, "pictures": [name]}) + "\n")
    write(opened(folder), step=4)
    page = (folder / "samples.html").read_text()
    assert page.count("data:image") == 1
    assert page.count("cannot be read") == 2


def test_processes_other_than_the_first_write_nothing(opened, tmp_path):
    log, rollouts = opened(tmp_path / "run", enabled=False), opened(tmp_path / "run", RolloutLog, enabled=False)
    for one in (log, rollouts):
        one.begin("rl", None)
    write(log)
    rollouts.write("rl", 1, 0, [(row("q"), [GOOD])])
    assert not (tmp_path / "run").exists()


def test_a_rollout_line_is_one_sample(opened, tmp_path):
    log = opened(tmp_path, RolloutLog)
    log.write("rl", 3, 1, [(row("q"), [GOOD, CUT])])
    log.close()
    good, cut = lines(tmp_path / "rollouts" / "rl.jsonl")
    assert good == {
        "step": 3,
        "attempt": 1,
        "id": "q",
        "sample": 0,
        "text": "Red.",
        "tokens": [9, 8, 2],
        "actions": [5, 0, 3],
        "logps": [-0.5, -0.25, -1.0],
        "finished": True,
        "reward": 0.75,
        "parts": {"colour": 1.0, "length": 0.5},
        "error": None,
    }
    assert (cut["sample"], cut["reward"], cut["error"]) == (1, None, "no reply from the judge")


@pytest.mark.parametrize(("step", "left"), [(2, [1, 2]), (None, [])])
def test_a_resumed_phase_has_no_rollout_twice(opened, tmp_path, step, left):
    log = opened(tmp_path, RolloutLog)
    for phase in ("rl", "other"):
        for number in (1, 2, 3):
            log.write(phase, number, 0, [(row("q"), [GOOD])])
    log.begin("rl", step)
    file = tmp_path / "rollouts" / "rl.jsonl"
    assert [r["step"] for r in (lines(file) if file.exists() else [])] == left
    log.write("rl", 3, 0, [(row("q"), [GOOD])])
    assert [r["step"] for r in lines(file)] == [*left, 3]
    assert [r["step"] for r in lines(tmp_path / "rollouts" / "other.jsonl")] == [1, 2, 3]
