"""`lam_jax.load` of a Hugging Face folder and of converted ones: what it takes, how it answers, what it refuses."""

import io
import json
import re
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

import lam_jax
from lam_jax.agents.loaded import LoadedAgent
from lam_jax.agents.prompts import prompt_of
from lam_jax.agents.settings import AgentError
from lam_jax.data.schemas import DataError, Example
from lam_jax.formats.convert import convert
from lam_jax.formats.safetensors_io import CheckpointError
from lam_jax.models.processor import ImageError
from lam_jax.rollout.sampling import SamplingConfig
from lam_jax.train.method import METHODS
from tests.agents import made_agents as made

QUESTION = "What is in the picture?"
LENGTH = 12


@pytest.fixture(scope="module")
def folder(tmp_path_factory, qwen_config, make_tokenizer) -> Path:
    tokenizer = make_tokenizer(default_system=True)
    return made.hugging_face(tmp_path_factory.mktemp("hf") / "model", made.small(qwen_config), tokenizer)


@pytest.fixture(scope="module")
def agent(folder: Path) -> LoadedAgent:
    return lam_jax.load(folder)


@pytest.fixture(scope="module")
def latent_folder(folder: Path, qwen_config) -> Path:
    return made.latent(folder.parent / "latent", made.small(qwen_config), folder)


def example(name: str, pictures=(), text: str = QUESTION) -> Example:
    messages = ({"role": "user", "content": text}, {"role": "assistant", "content": "A secret reference."})
    return Example(name, messages, tuple(pictures))


def png(height: int, width: int, seed: int = 0) -> bytes:
    out = io.BytesIO()
    made.picture(height, width, seed).save(out, "PNG")
    return out.getvalue()


def test_the_settings_are_those_of_the_folder(agent):
    assert (agent.space, agent.task, agent.phase) == ("token", None, None)
    assert (agent.settings.image.min_pixels, agent.settings.image.max_pixels) == (784, 784 * 12)
    assert agent.settings.sampling.greedy
    assert repr(agent).startswith("LoadedAgent('")
    assert "space='token'" in repr(agent)


def test_a_picture_may_be_a_path_bytes_or_a_pil_image(agent, tmp_path):
    image = made.picture(70, 90)
    image.save(tmp_path / "p.png")
    data = (tmp_path / "p.png").read_bytes()
    forms = (tmp_path / "p.png", str(tmp_path / "p.png"), data, image, [image], (data,))
    answers = {agent.answer(QUESTION, form, length=LENGTH) for form in forms}
    assert len(answers) == 1
    assert agent.answer(QUESTION, length=LENGTH) not in answers
    assert agent.answer(QUESTION, made.picture(70, 90, seed=1), length=LENGTH) not in answers


def test_a_picture_is_turned_as_its_camera_says(agent, tmp_path):
    image = made.picture(70, 140)
    turned = image.rotate(90, expand=True)  # anticlockwise; orientation 6 turns it back
    turned.save(tmp_path / "t.png", exif=_orientation(6))
    opened = made.Image.open(tmp_path / "t.png")
    assert opened.size == (70, 140)
    upright = patches(agent, image)
    np.testing.assert_array_equal(patches(agent, tmp_path / "t.png"), upright)
    np.testing.assert_array_equal(patches(agent, opened), upright)
    assert not np.array_equal(patches(agent, turned), upright)


def patches(agent: LoadedAgent, image) -> np.ndarray:
    return agent.prompts([prompt_of(QUESTION, image, "question")]).batch.images.patches


def _orientation(value: int) -> bytes:
    exif = made.Image.Exif()
    exif[0x0112] = value
    return exif.tobytes()


def test_a_question_is_the_chat_of_one_user_message(agent):
    chat = [{"role": "user", "content": QUESTION}]
    assert agent.answer(chat, length=LENGTH) == agent.answer(QUESTION, length=LENGTH)
    longer = [{"role": "system", "content": "Be short."}, *chat, {"role": "assistant", "content": "Two cats."}]
    longer.append({"role": "user", "content": "How many cats?"})
    assert isinstance(agent.answer(longer, [made.picture(60, 60), made.picture(90, 60)], length=LENGTH), str)


def test_more_samples_are_a_list_and_draws_depend_on_the_seed(agent):
    hot = SamplingConfig(temperature=5.0)
    first = agent.answer(QUESTION, samples=3, sampling=hot, length=LENGTH)
    assert len(set(first)) == 3
    assert agent.answer(QUESTION, samples=3, sampling=hot, length=LENGTH, seed=0) == first
    assert agent.answer(QUESTION, samples=3, sampling=hot, length=LENGTH, seed=1) != first
    key = jax.random.key(0)
    assert agent.answer(QUESTION, samples=3, sampling=hot, length=LENGTH, seed=key) == first


def test_rows_are_answered_alike_in_whatever_batches_and_without_their_references(agent):
    sizes = ((56, 56), (112, 84), (84, 200))
    rows = [example("text"), *(example(f"{h}x{w}", [png(h, w)]) for h, w in sizes)]
    rows.append(example("two", [png(56, 84), png(84, 56)], text="How many cats are left of the tree? " * 4))
    hot = SamplingConfig(temperature=1.0)
    together = agent.generate(rows, samples=2, sampling=hot, length=LENGTH, batch=5)
    apart = agent.generate(rows, samples=2, sampling=hot, length=LENGTH, batch=2)
    assert [a.example.id for a in together] == [row.id for row in rows]
    assert [[x.tokens for x in a.answers] for a in together] == [[x.tokens for x in a.answers] for a in apart]
    prompt = [Example(r.id, (*r.prompt, {"role": "assistant", "content": "Another."}), r.images) for r in rows]
    again = agent.generate(prompt, samples=2, sampling=hot, length=LENGTH, batch=2)
    assert [a.answers for a in again] == [a.answers for a in apart]
    for answered in together:
        for answer in answered.answers:
            assert answer.actions == answer.tokens
            assert len(answer.logps) == len(answer.tokens)
            assert max(answer.logps) <= 0
            assert answer.finished == (answer.tokens[-1] == agent.agent.backbone.config.eos_id)
            assert len(answer.tokens) == LENGTH or answer.finished


def test_a_prompt_that_is_too_long_is_cut_and_warned_of(agent, caplog, monkeypatch):
    short = lam_jax.LoadedAgent(
        agent.path, made.dataclasses.replace(agent.settings, prompt_lengths=(16, 32)), agent.agent, agent.tokenizer
    )
    cut = short.answer("How many cats? " * 40, length=LENGTH)
    assert isinstance(cut, str)
    assert "1 of the prompts question to question were cut on the left, by" in caplog.text
    with pytest.raises(DataError, match=r"question.*vision tokens"):
        short.answer(QUESTION, [made.picture(84, 112)] * 6)


@pytest.mark.parametrize(
    ("question", "image", "message"),
    [
        (
            [{"role": "user", "content": "A"}, {"role": "assistant", "content": "B"}],
            None,
            "a last message of the ass",
        ),
        ([{"role": "system", "content": "A"}], None, "messages"),
        ([{"role": "user", "text": "A"}], None, "no such key"),
        (QUESTION, 3, "image|not iterable"),
        (QUESTION, [3], "image"),
        (QUESTION, "nowhere.png", "nowhere.png .*No such file"),
    ],
)
def test_what_cannot_be_answered_is_refused(agent, question, image, message):
    with pytest.raises((DataError, TypeError), match=message):
        agent.answer(question, image)
    with pytest.raises(AgentError, match="batch is 0"):
        list(agent.batches([example("a")], batch=0))


def test_a_converted_folder_answers_as_the_folder_that_it_was_made_from(agent, folder):
    convert(folder, folder.parent / "ours")
    ours = lam_jax.load(folder.parent / "ours")
    assert ours.settings == agent.settings
    assert ours.answer(QUESTION, made.picture(70, 90), length=LENGTH) == agent.answer(
        QUESTION, made.picture(70, 90), length=LENGTH
    )
    with pytest.raises(AgentError, match="its only space is 'token'"):
        lam_jax.load(folder.parent / "ours", space="latent")


def test_a_folder_with_latent_modules_acts_in_codes_and_its_backbone_in_tokens(latent_folder, qwen_config):
    codes = lam_jax.load(latent_folder)
    found = codes.generate([example("a")], samples=2, sampling=SamplingConfig(temperature=3.0), length=LENGTH)[0]
    assert codes.space == "latent"
    for answer in found.answers:
        assert set(answer.actions) <= set(range(made.LATENT.codes))
        assert answer.actions != answer.tokens
    tokens = lam_jax.load(latent_folder, space="token")
    assert tokens.generate([example("a")], length=LENGTH)[0].answers[0].actions != found.answers[0].actions
    convert(latent_folder, latent_folder.parent / "backbone")
    alone = lam_jax.load(latent_folder.parent / "backbone")
    assert alone.answer(QUESTION, length=LENGTH) == tokens.answer(QUESTION, length=LENGTH)


def test_a_state_dict_of_the_released_code_is_read_as_that_code_reads_it(latent_folder, qwen_config, tmp_path):
    convert(latent_folder, tmp_path / "released.safetensors")
    convert(tmp_path / "released.safetensors", tmp_path / "ours", made.small(qwen_config))
    for path in (latent_folder / "files").iterdir():
        shutil.copyfile(path, tmp_path / "ours" / "files" / path.name)
    assert lam_jax.load(tmp_path / "ours").settings.method == METHODS["official"]
    assert lam_jax.load(latent_folder).settings.method == METHODS["default"]


def test_eight_devices_answer_as_one(agent, folder):
    rows = [example("a"), example("b", [png(84, 56)]), example("c")]
    hot = {"samples": 3, "sampling": SamplingConfig(temperature=1.0), "length": LENGTH}
    one, eight = agent.generate(rows, **hot), lam_jax.load(folder, mesh=(2, 2, 2)).generate(rows, **hot)
    assert [[a.tokens for a in x.answers] for x in eight] == [[a.tokens for a in x.answers] for x in one]
    logps = [np.concatenate([a.logps for x in found for a in x.answers]) for found in (one, eight)]
    np.testing.assert_allclose(logps[0], logps[1], atol=1e-4)


def broken(folder: Path, target: Path, **files: str) -> Path:
    shutil.copytree(folder, target)
    for name, text in files.items():
        (target / f"{name}.json").write_text(text)
    return target


def test_what_is_no_agent_says_what_would_be(folder, tmp_path):
    with pytest.raises(AgentError, match=r"is not there, expected the folder of a run.*hf download"):
        lam_jax.load("Qwen/Qwen2.5-VL-3B-Instruct")
    (tmp_path / "x.safetensors").write_bytes(b"")
    with pytest.raises(AgentError, match=r"is a file.*lam-jax convert"):
        lam_jax.load(tmp_path / "x.safetensors")
    with pytest.raises(AgentError, match=re.escape("holds none of agent.json (an exported agent), lam_jax.json")):
        lam_jax.load(tmp_path)
    with pytest.raises(AgentError, match="space is 'codes', expected 'latent', 'hybrid' or 'token'"):
        lam_jax.load(folder, space="codes")
    with pytest.raises(AgentError, match="space 'latent' was asked for, but this agent is one of the space 'token'"):
        lam_jax.load(folder, space="latent")
    with pytest.raises(AgentError, match="task 'help' was asked for, but this agent is one without a task"):
        lam_jax.load(folder, task="help")
    with pytest.raises(CheckpointError, match="model_type None"):
        lam_jax.load(broken(folder, tmp_path / "other", config="{}"))
    with pytest.raises(ImageError, match=r"preprocessor_config.json: not the settings.*Fetch"):
        lam_jax.load(broken(folder, tmp_path / "bad", preprocessor_config="{"))
    for text, message in (
        ("{", "damaged"),
        (json.dumps({"format": "lam_jax agent", "version": 2}), "found format"),
        (
            json.dumps({"format": "lam_jax agent", "version": 1, "settings": {}}),
            "found settings {}",
        ),
    ):
        shutil.rmtree(tmp_path / "agent", ignore_errors=True)
        with pytest.raises(AgentError, match=f"agent.json: {message}"):
            lam_jax.load(broken(folder, tmp_path / "agent", agent=text))
