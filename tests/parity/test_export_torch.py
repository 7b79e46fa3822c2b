"""A token agent's exported folder in transformers: it loads, and picks the tokens that `lam_jax.load` picks."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageTextToText, AutoTokenizer, GenerationConfig

import lam_jax
from lam_jax.agents.export import export
from lam_jax.agents.prompts import prompt_of
from lam_jax.rollout.sampling import SamplingConfig
from tests.agents.made_run import make_run, recipe_of

pytestmark = pytest.mark.parity
QUESTION, GREEDY, LENGTH = "What colour is it?", SamplingConfig(temperature=0.0), 24


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> tuple[Path, Path]:
    """A run and its exported token agent."""
    made = make_run(tmp_path_factory.mktemp("parity"), "parity_score")
    run = next(made)
    export(run, run.parent / "agent", space="token")
    return run, run.parent / "agent"


def test_transformers_reads_the_folder_and_samples_as_the_agent_does(folders):
    run, folder = folders
    model = AutoModelForImageTextToText.from_pretrained(folder)
    assert model.dtype == torch.float32
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    settings = lam_jax.load(folder).settings
    found = GenerationConfig.from_pretrained(folder)
    assert (found.do_sample, found.temperature, found.top_p) == (True, settings.sampling.temperature, 1.0)
    assert not found.top_k
    assert found.max_new_tokens == recipe_of(run).tasks[0].answer_length


@pytest.mark.parametrize("size", [(84, 112), None], ids=["picture", "text"])
def test_transformers_picks_the_same_tokens(folders, size):
    _, folder = folders
    agent = lam_jax.load(folder)
    model = AutoModelForImageTextToText.from_pretrained(folder, attn_implementation="sdpa").eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    picture = None
    content, images = [{"type": "text", "text": QUESTION}], {}
    if size is not None:
        picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8))
        content = [{"type": "image"}, *content]
        found = AutoImageProcessor.from_pretrained(folder)(picture, return_tensors="pt")
        assert found["image_grid_thw"].tolist() == [[1, size[0] // 14, size[1] // 14]], "the trained size stays"
        images = dict(found)
    chat = [{"role": "user", "content": content}]
    text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    if images:
        count = int(images["image_grid_thw"].prod()) // 4
        text = text.replace("<|image_pad|>", "<|image_pad|>" * count)
    inputs = tokenizer(text, return_tensors="pt", add_special_tokens=False)
    if images:
        images["mm_token_type_ids"] = (inputs["input_ids"] == model.config.image_token_id).int()
    with torch.no_grad():
        out = model.generate(**inputs, **images, do_sample=False, max_new_tokens=LENGTH)
    theirs = out[0, inputs["input_ids"].shape[1] :].tolist()
    example = prompt_of(QUESTION, picture, "question")
    ours = agent.generate([example], sampling=GREEDY, length=LENGTH)[0].answers[0].tokens
    assert theirs == ours
