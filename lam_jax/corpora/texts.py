"""The text-only sets: HelpSteer3's preferred answers, and SlimPajama's texts."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from lam_jax.corpora.files import LINES, LISTS, TABLES, find_files, records
from lam_jax.corpora.rows import Odd, Placed, Row, chat, counted, mapping
from lam_jax.data.readers import Drops
from lam_jax.data.schemas import ROLES, Message, Where, describe

KINDS = (*LINES, *LISTS, *TABLES)
REQUEST = "Write a text."


def read_helpsteer3(
    sources: Sequence[Path], images: Path | None, drops: Drops, light: bool = False
) -> Iterator[Placed]:
    """Rows of preference files: `{"context": [{"role", "content"}], "response1", "response2", "overall_preference"}`.

    The preference runs from -3 (the first is much better) to 3 (the second is); a tie takes the second. See `Reader`.
    """
    for path in find_files(sources, KINDS, "HelpSteer3's preference files"):
        yield from counted(records(path, drops), _preferred, drops)


def _preferred(record: Any, where: Where) -> Row:
    record = mapping(record)
    context = record.get("context")
    if isinstance(context, str):
        context = [{"role": "user", "content": context}]
    if not isinstance(context, list) or not context:
        raise Odd("no context", describe(context))
    messages: list[Message] = []
    for index, turn in enumerate(context):
        role, content = (turn.get("role"), turn.get("content")) if isinstance(turn, dict) else (None, None)
        if role not in ROLES or not isinstance(content, str) or (role == "system" and index):
            raise Odd("unusable turn", f"context[{index}]: {describe(turn)}")
        messages.append({"role": role, "content": content})
    if messages[-1]["role"] != "user":
        raise Odd("context that does not end with the user", f"roles {[message['role'] for message in messages]}")
    preference = record.get("overall_preference")
    if isinstance(preference, bool) or not isinstance(preference, int | float) or preference != preference:
        raise Odd("no preference", describe(preference))
    answer = record.get("response1" if preference < 0 else "response2")
    if not isinstance(answer, str) or not answer.strip():
        raise Odd("empty answer", describe(answer))
    return {
        "id": f"helpsteer3/{Path(where.file).parent.name}/{Path(where.file).name.partition('.')[0]}/{where.row}",
        "messages": [*messages, {"role": "assistant", "content": answer}],
        "instance_type": str(record.get("domain") or "helpsteer3"),
    }


def read_slimpajama(
    sources: Sequence[Path], images: Path | None, drops: Drops, light: bool = False
) -> Iterator[Placed]:
    """Rows of `{"text"}` files, usually .jsonl.zst: a short request, the text as its answer. See `Reader`."""
    for path in find_files(sources, KINDS, "SlimPajama's files"):
        folder = path.parent.name
        yield from counted(records(path, drops), lambda record, where, f=folder: _plain(record, where, f), drops)


def _plain(record: Any, where: Where, folder: str) -> Row:
    record = mapping(record)
    value = record.get("text")
    if not isinstance(value, str) or not value.strip():
        raise Odd("no text", describe(value))
    return {
        "id": f"slimpajama/{folder}/{Path(where.file).name.partition('.')[0]}/{where.row}",
        "messages": chat(REQUEST, value.strip()),
        "instance_type": "text",
    }
