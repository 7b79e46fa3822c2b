"""Answers as the OpenAI API writes them; beside its fields a choice has `codes`, and a reply the `seed`."""

import functools
import json
import secrets
import time
from typing import Any

from transformers.convert_slow_tokenizer import bytes_to_unicode

from lam_jax.serving.requests import Asked
from lam_jax.serving.scheduler import Said

_BYTES = {letter: byte for byte, letter in bytes_to_unicode().items()}


def encoded(value: Any) -> bytes:
    """JSON, in ASCII: what a client sent may hold halves of characters."""
    return json.dumps(value, separators=(",", ":")).encode()


class Reply:
    """The reply to one request.

    Args:
        asked: the request.
        name: of the model.
        tokenizer: of the agent.
        coded: whether actions are codes.
        prompt_tokens: of its prompt.
    """

    def __init__(self, asked: Asked, name: str, tokenizer: Any, coded: bool, prompt_tokens: int):
        self._asked, self._tokenizer, self._coded = asked, tokenizer, coded
        self._prompt_tokens, self._tokens = prompt_tokens, 0
        self._head = {"id": f"chatcmpl-{secrets.token_hex(12)}", "created": int(time.time()), "model": name}
        self._whole: dict[int, dict[str, Any]] = {}

    def take(self, said: Said) -> None:
        """A piece of an answer that is not streamed, which comes whole."""
        self._tokens += len(said.tokens)
        message = {"role": "assistant", "content": said.text, "refusal": None}
        choice = {"index": said.index, "message": message, "finish_reason": said.reason}
        self._whole[said.index] = choice | self._details(said)

    def completion(self) -> dict[str, Any]:
        """The reply, once all answers were taken."""
        choices = [self._whole[index] for index in sorted(self._whole)]
        return self._head | {
            "object": "chat.completion",
            "choices": choices,
            "usage": self._usage(),
            "seed": self._asked.seed,
        }

    def opening(self) -> list[dict[str, Any]]:
        """The first chunks of a stream."""
        delta = {"role": "assistant", "content": ""}
        return [
            self._chunk([{"index": index, "delta": delta, "finish_reason": None, "logprobs": None}])
            for index in range(self._asked.samples)
        ]

    def chunk(self, said: Said) -> dict[str, Any]:
        """A piece of an answer as a chunk."""
        self._tokens += len(said.tokens)
        delta = {"content": said.text} if said.text or said.reason is None else {}
        return self._chunk([{"index": said.index, "delta": delta, "finish_reason": said.reason} | self._details(said)])

    def closing(self) -> list[dict[str, Any]]:
        """The last chunks of a stream."""
        return [self._chunk([]) | {"usage": self._usage()}] if self._asked.usage else []

    def _chunk(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return self._head | {"object": "chat.completion.chunk", "choices": choices, "seed": self._asked.seed}

    def _usage(self) -> dict[str, int]:
        total = self._prompt_tokens + self._tokens
        return {"prompt_tokens": self._prompt_tokens, "completion_tokens": self._tokens, "total_tokens": total}

    def _details(self, said: Said) -> dict[str, Any]:
        details: dict[str, Any] = {"logprobs": None}
        if self._asked.logprobs:
            content = [
                {"token": piece, "logprob": logp, "bytes": list(raw), "top_logprobs": []}
                for (piece, raw), logp in zip(map(self._piece, said.tokens), said.logps, strict=True)
            ]
            details["logprobs"] = {"content": content, "refusal": None}
        if self._coded:
            details["codes"] = said.actions
        return details

    def _piece(self, token: int) -> tuple[str, bytes]:
        return _piece(self._tokenizer, token)


@functools.lru_cache(1 << 14)
def _piece(tokenizer: Any, token: int) -> tuple[str, bytes]:
    """A token's text and bytes."""
    name = tokenizer.convert_ids_to_tokens(token) or ""
    special = token in tokenizer.all_special_ids or any(letter not in _BYTES for letter in name)
    raw = name.encode() if special else bytes(_BYTES[letter] for letter in name)
    return raw.decode(errors="replace"), raw
