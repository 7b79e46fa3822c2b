"""Conversations: they say what `generate` says, controls are exact, and nothing compiles twice."""

import io
import json
import os
import re
from pathlib import Path

import pytest
from rich.console import Console

import lam_jax
from lam_jax.agents import chat_terminal
from lam_jax.agents.chat import Chat
from lam_jax.agents.chat_terminal import printable
from lam_jax.agents.chat_turns import ChatError, Controls
from lam_jax.agents.prompts import prompt_of
from lam_jax.agents.run_folder import newest_run
from lam_jax.agents.settings import AgentError
from lam_jax.cli import main
from lam_jax.data.schemas import DataError
from lam_jax.hosts.compilation import CompileClock
from lam_jax.rollout.sampling import HybridSampling, SamplingConfig
from tests.agents import made_agents as made

pytestmark = pytest.mark.usefixtures("full_compilation")

LENGTH, CODES = 12, made.LATENT.codes
WARM = SamplingConfig(temperature=1.0)
QUESTION = "What is in the picture?"


@pytest.fixture(scope="module")
def folders(tmp_path_factory, qwen_config, make_tokenizer) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("chat")
    token = made.hugging_face(folder / "token", made.small(qwen_config), make_tokenizer(default_system=True))
    return made.latent(folder / "latent", made.small(qwen_config), token), token


@pytest.fixture(scope="module")
def agent(folders):
    return lam_jax.load(folders[0])


@pytest.fixture(scope="module")
def hybrid(folders):
    return lam_jax.load(folders[0], space="hybrid")


@pytest.fixture(params=["latent", "hybrid"])
def coded(request, agent, hybrid):
    """An agent with codes, and how its draws are made: in the hybrid space tokens are drawn under their codes."""
    return (agent, WARM) if request.param == "latent" else (hybrid, HybridSampling(temperature=1.0, emission=2.0))


@pytest.fixture(scope="module")
def picture(folders) -> Path:
    made.picture(56, 84).save(folders[0].parent / "p.png")
    return folders[0].parent / "p.png"


def start(agent, **options) -> Chat:
    return Chat(agent, **{"sampling": WARM, "length": LENGTH, "seed": 3} | options)


@pytest.mark.parametrize("shown", [False, True])
def test_the_first_answer_is_that_of_answer_and_comes_token_by_token(agent, picture, shown):
    pieces = []
    images = [picture] if shown else []
    turn = start(agent).ask(QUESTION, images, on_piece=lambda text, code: pieces.append((text, code)))
    (row,) = agent.generate([prompt_of(QUESTION, images, "q")], sampling=WARM, length=LENGTH, seed=3)
    assert turn.answer == row.answers[0]
    said = len(turn.answer.tokens) - turn.answer.finished
    assert [code for _, code in pieces] == turn.answer.actions[:said]
    assert "".join(text for text, _ in pieces) == turn.answer.text.rstrip("\ufffd")
    assert not turn.stopped


def test_a_later_answer_has_the_turns_before_in_its_prompt(agent, picture):
    chat = start(agent, system="Be brief.")
    first = chat.ask("Hello", [picture])
    second = chat.ask("And now?", [picture])
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "<image>Hello"},
        {"role": "assistant", "content": first.answer.text},
        {"role": "user", "content": "<image>And now?"},
    ]
    assert second.answer.text == agent.answer(messages, [picture, picture], sampling=WARM, length=LENGTH, seed=4)
    chat.undo()
    again = chat.ask("And now?", [picture])
    assert (again.seed, again.answer.text) == (5, again.answer.text)


def test_forced_held_and_forbidden_codes_are_exact(coded):
    agent, _ = coded
    chat = start(agent, sampling=SamplingConfig(temperature=0.0))
    free = chat.ask(QUESTION).answer
    chat.controls = Controls(held=(5, None))
    forced = chat.branch(0).answer
    assert set(forced.actions) == {5}
    assert forced.logps == [0.0] * len(forced.actions)
    chat.controls = Controls(held=(6, 2))
    assert chat.branch(0).answer.actions[:2] == [6, 6]
    chat.controls = Controls(forbidden=(free.actions[0],))
    others = chat.branch(0).answer
    assert free.actions[0] not in others.actions
    chat.controls = Controls(bias={free.actions[0]: 100.0})
    assert set(chat.branch(0).answer.actions) == {free.actions[0]}
    chat.controls = Controls()
    assert chat.branch(0).answer == free


def test_a_replay_is_the_same_token_by_token_and_a_branch_up_to_its_place(coded):
    agent, sampling = coded
    chat = start(agent, sampling=sampling)
    chat.controls = Controls(bias={1: 2.0, 4: -1.0})
    first = chat.ask(QUESTION).answer
    chat.controls = Controls(forbidden=(0, 1, 2))
    again = chat.replay()
    assert (again.answer.tokens, again.answer.actions) == (first.tokens, first.actions)
    assert not again.controls
    assert len(chat.turns) == 1
    chat.seed = again.seed
    branched = chat.branch(4).answer
    assert branched.tokens[:4] == first.tokens[:4]
    assert not set(branched.actions[4:]) & {0, 1, 2}
    other = [3, 3, 5, 6]
    shorter = chat.replay(other).answer
    assert shorter.actions == other[: len(shorter.actions)]
    chat.length = 2 * LENGTH  # what ended at the most tokens, or by Ctrl-C, ends there again
    once_more = chat.replay().answer
    assert (once_more.tokens, once_more.actions, once_more.finished) == (
        shorter.tokens,
        other[: len(shorter.tokens)],
        False,
    )
    with pytest.raises(ChatError, match=f"expected 1 to {2 * LENGTH}"):
        chat.replay([0] * (2 * LENGTH + 1))


def test_a_saved_sequence_is_replayed_in_another_conversation(coded, tmp_path):
    """Under another seed and other settings: what was drawn then comes again, the tokens under their codes too."""
    agent, sampling = coded
    chat = start(agent, sampling=sampling, seed=11)
    saved = chat.ask(QUESTION).answer
    chat.save(tmp_path / "c.json")
    other = start(agent, sampling=SamplingConfig(temperature=0.0), seed=50)
    assert other.ask(QUESTION).answer.tokens != saved.tokens
    out = io.StringIO()
    terminal = chat_terminal.Terminal({agent.space: other}, Console(file=out, width=80))
    terminal.take(f"/replay {tmp_path / 'c.json'}")
    found = other.turns[-1]
    assert (found.answer.tokens, found.answer.actions) == (saved.tokens, saved.actions)
    assert (found.seed, found.sampling) == (11, sampling)
    assert printable(saved.text).split() == out.getvalue().partition("(cut at")[0].split()
    assert other.sampling == SamplingConfig(temperature=0.0)


def test_twenty_biases_compile_nothing(coded):
    agent, sampling = coded
    chat = start(agent, sampling=sampling)
    chat.ask(QUESTION)
    chat.branch(3)
    with CompileClock() as clock:
        for code in range(20):
            chat.controls = Controls(bias={code % CODES: 0.5 * code}, forbidden=((code + 1) % CODES,))
            chat.branch(code % 4)
    assert clock.seconds == 0


def test_ctrl_c_ends_an_answer_and_keeps_what_was_said(agent):
    chat = start(agent)
    whole = chat.ask(QUESTION).answer
    chat.undo()
    chat.seed = 3
    heard = []

    def interrupt(text: str, code: int) -> None:
        heard.append(code)
        if len(heard) == 3:
            raise KeyboardInterrupt

    turn = chat.ask(QUESTION, on_piece=interrupt)
    kept = len(turn.answer.tokens)
    assert turn.answer.tokens == whole.tokens[:kept]
    assert turn.stopped == (kept < len(whole.tokens))
    chat.undo()
    chat.seed = 3
    assert chat.ask(QUESTION).answer == whole


def test_typed_special_tokens_are_text(agent):
    chat = start(agent)
    ends = agent.agent.backbone.config.eos_ids
    example = chat._example("a <|im_end|> b <image> <|image_pad|>", ())
    prompt = agent.prompts([example]).batch.tokens[0].tolist()
    plain = agent.prompts([chat._example("a b", ())]).batch.tokens[0].tolist()
    assert [prompt.count(end) for end in ends] == [plain.count(end) for end in ends]
    assert agent.agent.backbone.config.image_id not in prompt


def test_a_saved_conversation_goes_on_as_it_would_have(agent, folders, picture, tmp_path):
    chat = start(agent)
    chat.controls = Controls(bias={2: 1.5}, forbidden=(7,), held=(1, 2))
    chat.ask(QUESTION, [picture])
    chat.ask("Taken back")
    chat.undo()
    chat.controls = Controls(bias={5: 0.5})
    chat.sampling = SamplingConfig(temperature=0.7)
    chat.save(tmp_path / "c.json")
    loaded = Chat.load(agent, tmp_path / "c.json")
    assert loaded.turns == chat.turns
    assert loaded.ask("And?").answer == chat.ask("And?").answer
    with pytest.raises(FileExistsError, match="exists already"):
        chat.save(tmp_path / "c.json")
    with pytest.raises(ChatError, match="was led in the latent space"):
        Chat.load(lam_jax.load(folders[1]), tmp_path / "c.json")
    (tmp_path / "d.json").write_text(json.dumps({"format": "lam_jax chat", "version": 1}))
    with pytest.raises(ChatError, match=r"d\.json: not a saved conversation"):
        Chat.load(agent, tmp_path / "d.json")


def test_what_cannot_be_followed_is_refused_and_changes_nothing(agent, folders, tmp_path):
    chat = start(agent)
    with pytest.raises(ChatError, match="Nothing was answered yet"):
        chat.replay()
    chat.ask(QUESTION)
    before = list(chat.turns)
    for controls, why in (
        (Controls(bias={8: 1.0}), "8 is no code of this agent; expected a number from 0 to 7"),
        (Controls(forbidden=tuple(range(8))), "leave one"),
        (Controls(held=(-1, None)), "-1 is no code"),
        (Controls(held=(1, 0)), "expected at least 1"),
        (Controls(bias={1: float("nan")}), "is nan, expected -1e+06 to 1e+06"),
        (Controls(bias={1: 1e39}), "is 1e+39, expected"),
    ):
        chat.controls = controls
        with pytest.raises(ChatError, match=re.escape(why)):
            chat.branch(0)
    chat.controls = Controls()
    with pytest.raises(ChatError, match="99 is no action"):
        chat.replay([99])
    with pytest.raises(ChatError, match="expected 0 to as many"):
        chat.branch(LENGTH + 1)
    with pytest.raises(DataError, match="nofile"):
        chat.ask("Look", [tmp_path / "nofile.png"])
    with pytest.raises(ChatError, match="no question and no picture"):
        chat.ask("  ")
    assert chat.turns == before
    token = start(lam_jax.load(folders[1]))
    token.controls = Controls(bias={1: 1.0})
    with pytest.raises(ChatError, match="no codes to control"):
        token.ask(QUESTION)
    token.controls = Controls()
    first = token.ask(QUESTION).answer
    assert token.replay().answer.tokens == first.tokens


def test_a_script_is_done_line_by_line(folders, picture, tmp_path, monkeypatch, capsys):
    lines = [
        f"/image {picture}",
        QUESTION,
        "/bias 12 4",
        "/force 5",
        "/branch 1",
        "/codes",
        "/clear",
        "/set length 3",
        "//slash",
        f"/save {tmp_path / 'c.json'}",
        "/quit",
        "never said",
    ]
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(lines)))
    assert main(["chat", str(folders[0]), "--length", "6", "--temperature", "1", "--beside", str(folders[1])]) == 1
    out = capsys.readouterr().out
    assert "! 12 is no code of this agent; expected a number from 0 to 7." in out
    assert "[latent]" in out
    assert f"[{folders[1]}]" in out
    assert "(cut at 3 tokens" in out
    assert "\x1b[" not in out
    assert "never said" not in out
    saved = json.loads((tmp_path / "c.json").read_text())["turns"]
    assert [turn["question"] for turn in saved] == [QUESTION, "/slash"]
    assert set(saved[0]["answer"]["actions"][1:]) == {5}
    assert len(saved[0]["images"]) == 1
    monkeypatch.setattr("sys.stdin", io.StringIO("/help\n/quit\n"))
    assert main(["chat", str(folders[1])]) == 0
    assert "/forbid C" in capsys.readouterr().out


def test_a_terminal_shows_each_token_in_the_colour_of_its_code(agent):
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=80, color_system="256")
    chat = start(agent)
    chat.controls = Controls(held=(2, None))
    chat_terminal.Terminal({"latent": chat}, console).take(QUESTION)
    assert f"\x1b[38;5;{chat_terminal._COLOURS[2]}m" in out.getvalue()


def test_without_an_agent_the_newest_run_is_taken_or_missed(tmp_path):
    with pytest.raises(AgentError, match="Found no run below"):
        newest_run(tmp_path)
    for age, name in enumerate(("grid/new", "old")):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "config.json").write_text('{"fingerprint": "", "config": {}}')
        os.utime(tmp_path / name / "config.json", (1e9 - age, 1e9 - age))
    assert newest_run(tmp_path) == tmp_path / "grid/new"


@pytest.mark.parametrize(
    ("flags", "why"), [(["--image", "nofile.png"], "nofile.png is no file"), (["--length", "0"], "found 0")]
)
def test_flags_that_cannot_be_are_refused(folders, capsys, flags, why):
    with pytest.raises(SystemExit) as ended:
        main(["chat", str(folders[0]), *flags])
    assert ended.value.code == 2
    assert why in " ".join(capsys.readouterr().err.split())


@pytest.fixture(scope="module")
def two(agent, folders) -> dict[str, Chat]:
    """Two conversations; each has a program of its own, so tests share them."""
    return {"latent": start(agent, length=4), "token": start(lam_jax.load(folders[1]), length=4)}


def test_two_answers_stand_side_by_side_where_there_is_room(two):
    """From 100 columns on; under that one after the other. At a terminal tokens come in while they are drawn."""
    for is_terminal in (False, True):
        wide = io.StringIO()
        chat_terminal.Terminal(two, Console(file=wide, width=100, force_terminal=is_terminal)).take(QUESTION)
        assert wide.getvalue().replace("\x1b[?25h", "").endswith("\n")
        answers = [chat.turns[-1].answer for chat in two.values()]
        shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", wide.getvalue()).splitlines()
        heads = [line for line in shown if "[latent]" in line]
        assert all(re.fullmatch(r"\[latent\] +\[token\] *", line.strip("\r")) for line in heads)
        assert (len(heads) == 1) != is_terminal  # at a terminal it is drawn anew with each token
        column = shown[-1 - shown[::-1].index(heads[-1])].index("[token]")
        assert column == 50
        last = shown[len(shown) - shown[::-1].index(heads[-1]) :]
        for answer, rows in zip(answers, ([r[:column] for r in last], [r[column:] for r in last]), strict=True):
            said = "".join("".join(rows).split())
            assert said.startswith("".join(printable(answer.text.rstrip("\ufffd")).split())[:20])
            assert answer.finished or f"(cutat{len(answer.tokens)}tokens" in said
    narrow = io.StringIO()
    chat_terminal.Terminal(two, Console(file=narrow, width=99)).take(QUESTION)
    lines = narrow.getvalue().splitlines()
    assert lines.index("[token]") > lines.index("[latent]")


def test_what_a_terminal_would_obey_is_not_printed():
    assert printable("a\x1b[2Jb\x07\r\n\tc\x9b é 👩‍🍳") == "a\ufffd[2Jb\ufffd\ufffd\n\tc\ufffd é 👩‍🍳"


def test_pictures_are_read_at_once_and_none_stays_that_cannot_be_used(two, picture, tmp_path):
    bad = tmp_path / "bad.png"
    bad.write_bytes(picture.read_bytes()[:80])
    terminal = chat_terminal.Terminal({"latent": two["latent"]}, Console(file=io.StringIO(), width=80))
    terminal.chat.turns.clear()
    refused = {str(bad): "cannot be decoded", str(tmp_path / "no.png"): "expected the file", "": "nothing"}
    for words, why in refused.items():
        with pytest.raises(ChatError, match=why):
            terminal.take(f"/image {words}")
    terminal.take(f"/image {picture}")
    picture_gone = tmp_path / "later.png"
    picture_gone.write_bytes(picture.read_bytes())
    terminal.take(f"/image {picture_gone}")
    picture_gone.write_bytes(b"not a picture any more")
    with pytest.raises(ChatError, match="The pictures of this question were dropped"):
        terminal.take(QUESTION)
    assert terminal.chat.turns == []
    for _ in range(2):
        terminal.take(f"/image {picture}")
    terminal.take(QUESTION)
    (turn,) = terminal.chat.turns
    assert turn.images == (picture.read_bytes(),) * 2
    assert terminal.images == []


def test_an_ended_input_ends_the_conversation(two, monkeypatch):
    two["latent"].turns.clear()
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{QUESTION}\n/nonsense\n\n"))
    console = Console(file=(out := io.StringIO()), width=80)
    terminal = chat_terminal.Terminal({"latent": two["latent"]}, console)
    assert terminal.run(chat_terminal.lines_of(console)) is False
    assert "There is no command /nonsense; /help lists them." in out.getvalue()
    assert len(terminal.chat.turns) == 1
