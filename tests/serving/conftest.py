"""An agent made up for tests behind a server on loopback, and the real client."""

import openai
import pytest

import lam_jax
from lam_jax.serving.server import Server
from lam_jax.serving.settings import ServeSettings
from tests.agents import made_agents as made

LENGTH = 12


@pytest.fixture(scope="package")
def folders(tmp_path_factory, qwen_config, make_tokenizer):
    folder = tmp_path_factory.mktemp("serve")
    token = made.hugging_face(folder / "token", made.small(qwen_config), make_tokenizer(default_system=True))
    return made.latent(folder / "latent", made.small(qwen_config), token), token


@pytest.fixture(scope="package")
def agent(folders):
    return lam_jax.load(folders[0])


@pytest.fixture(scope="package")
def pictures(tmp_path_factory):
    """A folder that may be read, beside one that may not."""
    root = tmp_path_factory.mktemp("pictures") / "root"
    (root / "a").mkdir(parents=True)
    made.picture(56, 84).save(root / "a" / "p.png")
    made.picture(56, 84, 1).save(root.parent / "secret.png")
    (root / "link.png").symlink_to(root.parent / "secret.png")
    return root


@pytest.fixture(scope="package")
def server(agent, pictures):
    settings = ServeSettings(
        port=0, slots=4, segment=3, length=LENGTH, queue=40, image_root=pictures, body=200_000, pixels=20_000, samples=6
    )
    with Server(agent, settings) as server:
        yield server


@pytest.fixture(scope="package")
def client(server):
    with openai.OpenAI(base_url=server.url, api_key="none", max_retries=0, timeout=120) as client:
        yield client
