"""A tiny random Qwen3-VL through every stage in both spaces, out again, and into transformers: the same logits."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageTextToText, AutoTokenizer

import lam_jax
from lam_jax.agents.export import export
from lam_jax.agents.prompts import prompt_of
from lam_jax.rollout.sampling import SamplingConfig
from tests.agents.made_run import make_run
from tests.end_to_end.qwen3_model import write_model

pytestmark = pytest.mark.parity
QUESTION, GREEDY, LENGTH, SIZE = "What colour is it?", SamplingConfig(temperature=0.0), 16, (64, 96)
FLAGS = ("--image", *map(str, SIZE), "--row-length", "64", "--prompt-length", "48", "--answer-length", "16")


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    """The exported agents of a run, by their space."""
    folder = tmp_path_factory.mktemp("qwen3")
    made = make_run(folder, "qwen3_score", "--model", str(write_model(folder / "model")), *FLAGS)
    run = next(made)
    for space in ("token", "latent"):
        export(run, folder / space, space=space)
    return {space: folder / space for space in ("token", "latent")}


def inputs(folder: Path, picture: Image.Image | None, image_id: int) -> dict[str, torch.Tensor]:
    """As transformers makes them of the folder's own files."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    content = [*([{"type": "image"}] if picture else []), {"type": "text", "text": QUESTION}]
    chat = [{"role": "user", "content": content}]
    text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    images = {}
    if picture is not None:
        images = dict(AutoImageProcessor.from_pretrained(folder)(picture, return_tensors="pt"))
        assert images["image_grid_thw"].tolist() == [[1, SIZE[0] // 16, SIZE[1] // 16]], "the trained size stays"
        text = text.replace("<|image_pad|>", "<|image_pad|>" * (int(images["image_grid_thw"].prod()) // 4))
    found = dict(tokenizer(text, return_tensors="pt", add_special_tokens=False))
    if images:
        images["mm_token_type_ids"] = (found["input_ids"] == image_id).int()
    return found | images


@pytest.mark.parametrize("shown", [True, False], ids=["picture", "text"])
def test_transformers_computes_the_same_logits_and_picks_the_same_tokens(folders, shown):
    folder = folders["token"]
    model = AutoModelForImageTextToText.from_pretrained(folder, attn_implementation="sdpa").eval()
    assert type(model).__name__ == "Qwen3VLForConditionalGeneration"
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (*SIZE, 3), np.uint8)) if shown else None
    given = inputs(folder, picture, model.config.image_token_id)
    with torch.no_grad():
        theirs = model(**given).logits[0]
        out = model.generate(**given, do_sample=False, max_new_tokens=LENGTH)

    agent, example = lam_jax.load(folder), prompt_of(QUESTION, picture, "question")
    batch, backbone = agent.prompts([example]).batch, agent.agent.backbone
    prompt = batch.mask[0]
    assert batch.tokens[0][prompt].tolist() == given["input_ids"][0].tolist()
    ours = backbone.logits(backbone.states(jax.tree.map(jnp.asarray, batch)))[0][prompt]
    np.testing.assert_allclose(ours, theirs.numpy(), atol=1e-4, rtol=1e-4)
    tokens = agent.generate([example], sampling=GREEDY, length=LENGTH)[0].answers[0].tokens
    assert tokens == out[0, given["input_ids"].shape[1] :].tolist()


def test_the_latent_agent_answers_with_codes(folders):
    agent = lam_jax.load(folders["latent"])
    found = agent.generate([prompt_of(QUESTION, None, "question")], sampling=GREEDY, length=8)[0].answers[0]
    assert len(found.actions) == len(found.tokens) > 0
    assert all(0 <= code < 128 for code in found.actions)
