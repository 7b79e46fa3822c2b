"""The server against the real client: answers are those of `generate`, and what cannot be done is refused."""

import base64
import json
import socket
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import openai
import pytest

from lam_jax.agents.chat import Chat
from lam_jax.agents.chat_turns import Controls
from lam_jax.agents.prompts import prompt_of
from lam_jax.data.schemas import Example
from lam_jax.rollout.sampling import SamplingConfig
from lam_jax.serving.server import Server
from lam_jax.serving.settings import API_KEY, ServeSettings
from tests.agents import made_agents as made
from tests.serving.conftest import LENGTH

pytestmark = pytest.mark.usefixtures("quick_compilation")
WARM = SamplingConfig(temperature=1.0)
QUESTION = "What is in the picture?"


def data_url(picture) -> str:
    return "data:image/png;base64," + base64.b64encode(picture.read_bytes()).decode()


def user(*parts) -> list[dict]:
    said = [{"type": "text", "text": p} if not p.startswith("data:") else {"type": "image_url", "image_url": {"url": p}} for p in parts]
    return [{"role": "user", "content": said}]


def ask(client, messages, **options):
    options = {"temperature": 1.0, "seed": 3} | options
    return client.chat.completions.create(model="latent", messages=messages, **options)


def expected(agent, question=QUESTION, images=(), sampling=WARM, length=LENGTH, seed=3, samples=1):
    example = question if isinstance(question, Example) else prompt_of(question, images, "q")
    (row,) = agent.generate([example], sampling=sampling, length=length, seed=seed, samples=samples)
    return row.answers


def test_an_answer_is_that_of_generate(agent, client, pictures):
    picture = pictures / "a" / "p.png"
    for images, messages in (([], user(QUESTION)), ([picture], user(data_url(picture), QUESTION))):
        reply = ask(client, messages, logprobs=True)
        (answer,) = expected(agent, images=images)
        (choice,) = reply.choices
        assert choice.message.content == answer.text
        assert choice.codes == answer.actions
        np.testing.assert_allclose([piece.logprob for piece in choice.logprobs.content], answer.logps, atol=2e-5)
        assert choice.finish_reason == ("stop" if answer.finished else "length")
        assert reply.usage.completion_tokens == len(answer.tokens)
        assert reply.seed == 3
    said = b"".join(bytes(piece.bytes) for piece in choice.logprobs.content)
    assert said.decode(errors="replace").startswith(answer.text[:1])
