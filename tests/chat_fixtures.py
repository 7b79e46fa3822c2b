"""A small tokenizer with Qwen2.5-VL's chat template, its encoder, and pictures; fixtures of every test."""

import dataclasses
import io

import numpy as np
import pytest
from PIL import Image
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from lam_jax.data.chat import ChatEncoder
from lam_jax.models.qwen2_5_vl.presets import PRESETS
from lam_jax.models.tokenizer import CHAT_TEMPLATE

DEFAULT_SYSTEM = (
    "{% if loop.first and message['role'] != 'system' %}"
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    "{% endif %}"
)
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>"]
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CORPUS = [
    "system\nYou are a helpful assistant.",
    "user\nWhat is in the picture? How many cats are left of the tree?",
    "assistant\nThere are two cats and a red apple. They sit under the tree.",
] * 4


@pytest.fixture(scope="session")
def make_tokenizer():
    def make(default_system: bool):
        backend = Tokenizer(models.BPE())
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
        backend.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(
            vocab_size=400, initial_alphabet=alphabet, special_tokens=SPECIAL, show_progress=False
        )
        backend.train_from_iterator(CORPUS, trainer)
        template = CHAT_TEMPLATE if default_system else CHAT_TEMPLATE.replace(DEFAULT_SYSTEM, "")
        return PreTrainedTokenizerFast(
            tokenizer_object=backend, eos_token="<|im_end|>", pad_token="<|endoftext|>", chat_template=template
        )

    return make


@pytest.fixture(scope="session")
def tokenizer(make_tokenizer):
    return make_tokenizer(default_system=False)


@pytest.fixture(scope="session")
def qwen_config():
    """The tiny preset with the test tokenizer's special ids, which are 0 to 5 in the order of SPECIAL."""
    ids = {"pad_id": 0, "eos_id": 2, "vision_start_id": 3, "vision_end_id": 4, "image_id": 5, "video_id": 2047}
    return dataclasses.replace(PRESETS["tiny"], **ids)


@pytest.fixture(scope="session")
def encoder(tokenizer, qwen_config):
    return ChatEncoder(tokenizer, qwen_config)


def png(height: int = 84, width: int = 112, seed: int = 0) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


@pytest.fixture(scope="session")
def make_png():
    return png
