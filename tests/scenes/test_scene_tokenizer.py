import json

import pytest

from lam_jax.recipes.demo import demo_sizes
from lam_jax.scenes import rows
from lam_jax.scenes.builder import SceneSizes
from lam_jax.scenes.compose import concepts
from lam_jax.scenes.make_tokenizer import corpus, main
from lam_jax.scenes.tokenizer import FOLDER, SPECIAL_TOKENS, load_tokenizer, train


def test_has_2048_ids_with_the_special_ones_last():
    tokenizer = load_tokenizer()
    assert len(tokenizer) == 2048
    assert tokenizer.convert_tokens_to_ids(list(SPECIAL_TOKENS)) == list(range(2041, 2048))
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|im_end|>", "<|endoftext|>")


def test_object_names_are_single_tokens():
    tokenizer = load_tokenizer()
    assert [c.name for c in concepts() if len(tokenizer.tokenize(f" {c.name}")) != 1] == []


@pytest.mark.parametrize("text", ["Ahoy, matey! I spy a lion.", "Ünïcode \u2603 and 1234\n\n tabs\t", "<|im_end|>", ""])
def test_any_text_comes_back(text):
    tokenizer = load_tokenizer()
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_rows_use_few_tokens_a_word():
    tokenizer = load_tokenizer()
    texts = [message["content"] for i in range(60) for message in rows.text_only(i, "text_only_test")["messages"]]
    words = sum(len(text.split()) for text in texts)
    assert sum(len(tokenizer(text)["input_ids"]) for text in texts) < 1.6 * words


@pytest.mark.parametrize("sizes", [SceneSizes(), demo_sizes()])
def test_text_only_data_are_five_times_the_paired_data(sizes):
    """In tokens, the 12 of a picture included."""
    tokenizer = load_tokenizer()

    def tokens(row):
        texts = [message["content"] for i in range(100) for message in row(i)["messages"]]
        return sum(len(ids) for ids in tokenizer(texts)["input_ids"]) / 100

    paired, text_only = tokens(rows.paired) + 12, tokens(rows.text_only)
    assert text_only * sizes.text_only["train"] >= 5 * paired * sizes.paired["train"]


def test_chat_template_is_qwens():
    tokenizer = load_tokenizer()
    content = [{"type": "image"}, {"type": "text", "text": "What is it?"}]
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
    )
    assert text == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>What is it?<|im_end|>\n<|im_start|>assistant\n"
    )
    chat = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Yo"},
    ]
    assert tokenizer.apply_chat_template(chat, tokenize=False) == (
        "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nYo<|im_end|>\n"
    )


def test_script_writes_a_loadable_folder(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["make_tokenizer", "--rows", "400", "--out", str(tmp_path)])
    main()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tokenizer.json", "tokenizer_config.json"]
    made = type(load_tokenizer()).from_pretrained(tmp_path)
    assert len(made) == 2048
    shipped = json.loads((FOLDER / "tokenizer_config.json").read_text())
    assert json.loads((tmp_path / "tokenizer_config.json").read_text()) == shipped


def test_too_little_text_is_refused():
    with pytest.raises(ValueError, match="expected 2041"):
        train(corpus(2))


def test_no_asset_ships_twice():
    files = [path for path in FOLDER.parent.rglob("*") if path.is_file() and path.suffix not in (".md", "")]
    assert sum(path.name == "tokenizer.json" for path in files) == 1
    contents = [path.read_bytes() for path in files]
    assert len(set(contents)) == len(contents)
