"""Chats to token ids and masks, equal to tokenizing the text of the tokenizer's own Qwen chat template.

    <|im_start|>user\n<|vision_start|><|image_pad|>...<|vision_end|>What is this?<|im_end|>\n<|im_start|>assistant\n...

Special tokens always split the text, so the pieces between them are tokenized one by one; that gives the same ids, lets
recurring pieces (system lines, headers) come from a cache, and keeps special tokens that are spelled out in somebody's
message from being read as such. n: tokens of the row.
"""

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Int32
from tokenizers import Tokenizer

from lam_jax.data.guard import guard, require_embedded
from lam_jax.data.schemas import Message, Place, first_places
from lam_jax.models.config import BackboneConfig

START, END = "<|im_start|>", "<|im_end|>"
VISION_START, IMAGE_PAD, VISION_END = "<|vision_start|>", "<|image_pad|>", "<|vision_end|>"
IMAGE_TEXT = VISION_START + IMAGE_PAD + VISION_END
_CACHED_PIECES = 1 << 12  # enough for what recurs; whole answers of a large set would fill gigabytes


@dataclasses.dataclass(frozen=True)
class Encoded:
    """A tokenized row.

    Attributes:
      tokens: ids; each image placeholder is expanded to the image's number of tokens.
      valid: valid(t) of method.md section 3, false for vision start, vision end and image placeholders.
      response: tokens of the assistant's turns, each with its end-of-turn token and without its header.
    """

    tokens: Int32[np.ndarray, "n"]
    valid: Bool[np.ndarray, "n"]
    response: Bool[np.ndarray, "n"]

    def __len__(self) -> int:
        return len(self.tokens)

    def take(self, kept: Any) -> "Encoded":
        """The positions `kept`: a slice, or increasing indices."""
        return Encoded(self.tokens[kept], self.valid[kept], self.response[kept])


class ChatEncoder:
    """Encodes chats for one tokenizer and model.

    Raises:
      ValueError: the tokenizer's chat template is not Qwen's, or its special ids are not the model's.
      DataError: it gives ids that the model's embedding has no rows for.
    """

    def __init__(self, tokenizer: Any, config: BackboneConfig):
        self.config = config
        self.tokenizer = tokenizer
        require_embedded(tokenizer, config)
        names = (END, VISION_START, VISION_END, IMAGE_PAD)
        expected = (config.eos_id, config.vision_start_id, config.vision_end_id, config.image_id)
        for name, wanted in zip(names, expected):
            found = tokenizer.convert_tokens_to_ids(name)
            if found != wanted:
                raise ValueError(
                    f"Tokenizer: found id {found} for {name}; expected {wanted} as in the model's config. "
                    "Use the tokenizer that belongs to the model."
                )
        self.start_id: int = tokenizer.convert_tokens_to_ids(START)
        self.default_system = _probe_template(tokenizer)
        self._pieces = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
        self._pieces.no_padding()
        self._pieces.no_truncation()
        guard(self._pieces, config)
        self._ids = functools.lru_cache(_CACHED_PIECES)(self._encode_piece)

    def text(
        self,
        messages: Sequence[Message],
        images: int = 0,
        generation_prompt: bool = False,
        places: Sequence[Place] = (),
    ) -> str:
        """The template's text of a chat with `images` pictures, one placeholder each; see `encode`."""
        parts = []
        for (role, pieces), _ in self._turns(messages, places, [1] * images):
            parts.append(f"{START}{role}\n{IMAGE_TEXT.join(pieces)}{END}\n")
        return "".join(parts) + (f"{START}assistant\n" if generation_prompt else "")

    def encode(
        self,
        messages: Sequence[Message],
        image_tokens: Sequence[int] = (),
        generation_prompt: bool = False,
        places: Sequence[Place] = (),
    ) -> Encoded:
        """Ids and masks of a chat.

        Args:
          messages: turns, any roles; a template's default system line is added if there is none.
          image_tokens: placeholder tokens of each picture (h * w / 4 for a grid of h x w patches).
          generation_prompt: end with the assistant's header, for RL prompts.
          places: where each picture stands, as in `Example`; by default all first in the first user turn.

        Raises:
          ValueError: there are images but no user turn, or places that are none.
        """
        ids: list[int] = []
        responses: list[tuple[int, int]] = []
        newline = self._ids("\n")
        for (role, pieces), counts in self._turns(messages, places, image_tokens):
            ids.append(self.start_id)
            piece = self._ids(f"{role}\n{pieces[0]}")
            if role == "assistant":
                header = _common_prefix(piece, self._ids("assistant\n"))
                responses.append((len(ids) + header, len(ids) + len(piece) + 1))
            ids += piece
            for count, text in zip(counts, pieces[1:], strict=True):
                ids += (self.config.vision_start_id, *[self.config.image_id] * count, self.config.vision_end_id)
                ids += self._ids(text)
            ids.append(self.config.eos_id)
            ids += newline
        if generation_prompt:
            ids += (self.start_id, *self._ids("assistant\n"))
        tokens = np.array(ids, np.int32)
        config = self.config
        valid = (tokens != config.image_id) & (tokens != config.vision_start_id) & (tokens != config.vision_end_id)
        response = np.zeros(len(tokens), bool)
        for start, stop in responses:
            response[start:stop] = True
        return Encoded(tokens, valid, response)

    def _turns(
        self, messages: Sequence[Message], places: Sequence[Place], image_tokens: Sequence[int]
    ) -> Iterator[tuple[tuple[str, list[str]], Sequence[int]]]:
        """Each turn's (role, texts between its pictures), and its pictures' numbers of tokens."""
        count = len(image_tokens)
        places = places or first_places(messages, count)
        if count and not places:
            raise ValueError(f"encode: found {count} images but no user turn; images go in the first user turn.")
        if len(places) != count or list(places) != sorted(places) or any(i >= len(messages) for i, _ in places):
            raise ValueError(
                f"encode: found {count} images at {list(places)} of {len(messages)} messages; expected a place for "
                "each, in the order of the text."
            )
        whole = self.with_system(messages)
        added, done = len(whole) - len(messages), 0
        for index, message in enumerate(whole):
            own = [offset for number, offset in places if number == index - added]
            content = message["content"]
            pieces = [content[start:stop] for start, stop in zip([0, *own], [*own, len(content)], strict=True)]
            yield (message["role"], pieces), image_tokens[done : done + len(own)]
            done += len(own)

    def with_system(self, messages: Sequence[Message]) -> Sequence[Message]:
        """The turns of a chat, the template's own system line first where it adds one."""
        if self.default_system is None or (messages and messages[0]["role"] == "system"):
            return messages
        return ({"role": "system", "content": self.default_system}, *messages)

    def ids(self, text: str) -> tuple[int, ...]:
        """Ids of a piece of text, special tokens that it spells out read as ordinary text."""
        return self._ids(text)

    def _encode_piece(self, text: str) -> tuple[int, ...]:
        return tuple(self._pieces.encode(text, add_special_tokens=False).ids)


def _common_prefix(left: Sequence[int], right: Sequence[int]) -> int:
    """Length of the common prefix: an answer that starts with a line break shares a token with its header."""
    count = 0
    for a, b in zip(left, right):
        if a != b:
            break
        count += 1
    return count


def _probe_template(tokenizer: Any) -> str | None:
    """The system line that the chat template adds by itself, or None; checks that the template is Qwen's."""
    user = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "A"}]}
    chat = [{"role": "system", "content": "S"}, user, {"role": "assistant", "content": "B"}]
    rendered = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    tail = f"{START}user\n{IMAGE_TEXT}A{END}\n{START}assistant\nB{END}\n{START}assistant\n"
    alone = tokenizer.apply_chat_template([{"role": "user", "content": "A"}], tokenize=False)
    turn, head = f"{START}user\nA{END}\n", f"{START}system\n"
    added = alone.removesuffix(turn)
    if rendered == f"{START}system\nS{END}\n{tail}" and alone.endswith(turn):
        if not added:
            return None
        if added.startswith(head) and added.endswith(f"{END}\n"):
            return added.removeprefix(head).removesuffix(f"{END}\n")
    raise ValueError(
        f"Tokenizer: found a chat template that renders {rendered!r}; expected Qwen2.5-VL's or Qwen3-VL's, "
        f"{START}system\\nS{END}\\n{tail!r}. Use the model's own tokenizer files."
    )
