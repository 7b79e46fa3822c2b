"""The messages of a request as an example: texts are texts, whatever they spell out; pictures stand in parts."""

import dataclasses
from typing import Any

from lam_jax.agents.loaded import LoadedAgent
from lam_jax.agents.prompts import PromptCollator
from lam_jax.data.pictures import resolve_image
from lam_jax.data.schemas import DataError, Example, Message, Place, Where, describe, image_bytes
from lam_jax.models.decoding import ImageError, read_size
from lam_jax.serving.settings import Refusal, ServeSettings

_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
_PLACE = Where("request")
_HALVINGS = 3


def prompt_reader(agent: LoadedAgent) -> PromptCollator:
    """What makes prompts of examples: read at an eighth, a quarter or half of the agent's longest where they fit.

    A chat is mostly far shorter than what an agent may read, and reading costs in proportion to the length.
    """
    lengths = set(agent.settings.prompt_lengths)
    lengths |= {-(-max(lengths) // 2**halvings) for halvings in range(_HALVINGS + 1)}
    return PromptCollator(
        agent.prompts.encoder, dataclasses.replace(agent.settings, prompt_lengths=tuple(sorted(lengths)))
    )


def read_messages(found: Any, settings: ServeSettings) -> Example:
    """The chat of a request; its last message is the user's.

    Raises:
        Refusal: messages that are none, of another role, with other parts, or with pictures that may not be read.
    """
    if not isinstance(found, list) or not found:
        raise Refusal(400, f"messages: found {describe(found)}, expected a list of messages.", "messages")
    messages: list[Message] = []
    places: list[Place] = []
    images: list[bytes] = []
    for index, raw in enumerate(found):
        key = f"messages[{index}]"
        if not isinstance(raw, dict):
            raise Refusal(400, f"{key}: found {describe(raw)}, expected an object with role and content.", key)
        said = {name: value for name, value in raw.items() if value not in (None, [], {})}
        role = _ROLES.get(said["role"]) if isinstance(said.get("role"), str) else None
        if role is None:
            expected = "system, developer, user or assistant"
            raise Refusal(400, f"{key}.role: found {describe(said.get('role'))}, expected {expected}.", f"{key}.role")
        if other := sorted(map(str, set(said) - {"role", "content"})):
            raise Refusal(
                400, f"{key}.{other[0][:60]}: not read here; expected role and content.", key, "unknown_field"
            )
        text, offsets, pictures = _content(raw.get("content"), f"{key}.content", settings)
        if pictures and role != "user":
            raise Refusal(400, f"{key}: a picture in the {role}'s message; expected pictures in the user's.", key)
        places += [(index, offset) for offset in offsets]
        images += pictures
        if len(images) > settings.pictures:
            raise Refusal(400, f"{key}: more than {settings.pictures} pictures.", key, "too_many_pictures")
        messages.append(Message(role=role, content=text))
    if messages[-1]["role"] != "user":
        raise Refusal(400, f"messages: the last is the {messages[-1]['role']}'s, expected the user's.", "messages")
    try:
        return Example("request", tuple(messages), tuple(images), where=_PLACE, places=tuple(places))
    except DataError as error:
        raise refused(error, "messages") from error


def refused(error: DataError | ImageError, param: str) -> Refusal:
    """The same as a refusal, without the advice for files of rows."""
    if isinstance(error, DataError) and type(error) is DataError:
        return Refusal(400, f"{param}: found {error.found}; expected {error.expected}.", param, "invalid_value")
    return Refusal(400, f"{param}: {getattr(error, 'text', error)}", param, "invalid_value")


def _content(found: Any, key: str, settings: ServeSettings) -> tuple[str, list[int], list[bytes]]:
    """Text, the characters before which its pictures stand, and the pictures."""
    if isinstance(found, str):
        return found, [], []
    if not isinstance(found, list) or not found:
        raise Refusal(400, f"{key}: found {describe(found)}, expected a text or a list of parts.", key, "invalid_type")
    text, offsets, pictures = "", [], []
    for index, part in enumerate(found):
        place = f"{key}[{index}]"
        kind = part.get("type") if isinstance(part, dict) else None
        if kind not in ("text", "image_url"):
            found_kind = describe(kind if isinstance(part, dict) else part)
            raise Refusal(400, f"{place}: found {found_kind}, expected a part of type text or image_url.", place)
        held = {name: value for name, value in part.items() if name != "type" and value is not None}
        if set(held) != {kind}:
            raise Refusal(400, f"{place}: found the keys {sorted(map(str, held))[:5]}, expected {kind!r} alone.", place)
        if kind == "text":
            if not isinstance(held["text"], str):
                raise Refusal(400, f"{place}.text: found {describe(held['text'])}, expected a text.", place)
            text += held["text"]
            continue
        if len(pictures) == settings.pictures:
            raise Refusal(400, f"{place}: more than {settings.pictures} pictures.", place, "too_many_pictures")
        offsets.append(len(text))
        pictures.append(_picture(held["image_url"], place, settings))
    return text, offsets, pictures


def _picture(found: Any, key: str, settings: ServeSettings) -> bytes:
    if isinstance(found, dict):
        if set(found) - {"url", "detail"} or found.get("detail", "auto") not in (None, "auto", "low", "high"):
            raise Refusal(400, f"{key}.image_url: expected an object with url, and detail at most.", key)
        found = found.get("url")
    if not isinstance(found, str) or not found:
        raise Refusal(400, f"{key}.image_url.url: found {describe(found)}, expected a data: address.", key)
    scheme = found[:5].lower()
    if found.lower().startswith(("http:", "https:")):
        raise Refusal(
            400,
            f"{key}: links to other hosts are not fetched; send the picture in a data: address.",
            key,
            "link_refused",
        )
    if scheme != "data:" and settings.image_root is None:
        raise Refusal(400, f"{key}: pictures come as data: addresses; this server reads no files.", key, "file_refused")
    try:
        source = resolve_image(found, settings.image_root, _PLACE, key)
        size = len(source) if isinstance(source, bytes) else source.stat().st_size
        if size > settings.body:
            raise Refusal(400, f"{key}: a picture of {size} bytes, at most {settings.body}.", key, "image_too_large")
        picture = image_bytes(source, _PLACE)
    except (DataError, OSError) as error:
        if scheme == "data:" and isinstance(error, DataError):
            raise refused(error, key) from error
        # Whether a file is there outside of the folder, and where that lies, is nobody's business.
        raise Refusal(400, f"{key}: no picture that this server may read.", key, "file_refused") from error
    try:
        height, width = read_size(picture, key)
    except ImageError as error:
        raise Refusal(400, str(error), key, "invalid_image") from error
    if height * width > settings.pixels:
        message = f"{key}: a picture of {height}x{width} pixels, at most {settings.pixels} are read; scale it down."
        raise Refusal(400, message, key, "image_too_large")
    return picture
