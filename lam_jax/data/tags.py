"""Where the pictures of a row stand: `<image>` tags in texts, and contents that are lists of parts."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

from lam_jax.data.schemas import DataError, Message, Place, Where, describe, field, first_places

IMAGE_TAG = "<image>"
# The tag spelled in another way: <Image>, <image 1>, <image_1>, <image/>, <image: a.png>, &lt;image&gt;; and Qwen-VL's
# <img>a.png</img>, which names its picture. None is read as the place of a picture.
_MISSPELT = re.compile(
    r"<\s*image(?:[\s_-]*\d*|:[^<>\n]{0,200})\s*/?\s*>|&lt;image&gt;|＜image＞|<img>[^<>\n]{1,1000}</img>",
    re.IGNORECASE,
)
# What other models' files write in its place; a row that has pictures means one of them.
_FOREIGN = re.compile(
    r"<\s*(?:img|picture|photo)[\s_-]*\d*\s*/?\s*>|<image[_-]?(?:here|placeholder|token|pad)>|<start_of_image>"
    r"|<\|(?:image(?:_pad|_start|_\d+)?|vision_start|img)\|>|\[(?:img|image)[\s_-]*\d*\]",
    re.IGNORECASE,
)
_MARKUP = re.compile(r"<image>.*?</image>", re.DOTALL)
_PARTS_FIX = (
    f"Where {IMAGE_TAG} is text, write the content as a list of parts, [{{'type': 'text', 'text': ..}}]: tags in those "
    "are text."
)


def strip_image_tag(text: str) -> str:
    """`text` without literal `<image>` tags and the blank space that they leave at its ends."""
    return text.replace(IMAGE_TAG, "").strip() if IMAGE_TAG in text else text


@dataclasses.dataclass(frozen=True)
class Content:
    """The content of a message as it was read.

    Attributes:
      text: its text; tags stand in it.
      literal: it was written as parts, so tags in it are text.
      offsets: characters of `text` before which its picture parts stand.
      pictures: what each picture part holds itself, or None: the next one of the row's pictures.
    """

    text: str
    literal: bool = False
    offsets: tuple[int, ...] = ()
    pictures: tuple[Any, ...] = ()


def read_content(value: Any, where: Where, key: str) -> Content:
    """A content: a text, or a list of parts {"type": "text", "text"} and {"type": "image"}.

    A picture part may hold its picture: "image", "url", "path" or "base64", or OpenAI's {"type": "image_url",
    "image_url": {"url"}}.

    Raises:
      DataError: something else.
    """
    if isinstance(value, str):
        return Content(value)
    if not isinstance(value, list | tuple):
        raise DataError(where, key, describe(value), "str or a list of parts", "Correct the row.")
    text, offsets, pictures = "", [], []
    for index, raw in enumerate(value):
        place = Where(f"{where}, {key}[{index}]")
        kind = field(raw, "type", str, place)
        part = {name: item for name, item in raw.items() if item is not None and name != "type"}
        if kind == "text":
            allowed = {"text"}
            text += field(part, "text", str, place)
        elif kind in ("image", "image_url"):
            allowed = {"image", "url", "path", "base64", "image_url"}
            offsets.append(len(text))
            pictures.append(_picture_of(part, place))
        else:
            fix = "Videos are not read: drop the row." if "video" in kind else "Drop the part or the row."
            raise DataError(place, "type", describe(kind), "'text' or 'image'", fix)
        if unknown := sorted(map(str, set(part) - allowed)):
            raise DataError(place, unknown[0], "a key that is not read", f"some of {sorted(allowed)}", "Drop the key.")
    return Content(text, True, tuple(offsets), tuple(pictures))


def _picture_of(part: Mapping[str, Any], where: Where) -> Any:
    held = [(name, item) for name, item in part.items() if name in ("image", "url", "path", "base64", "image_url")]
    if len(held) > 1:
        raise DataError(where, held[1][0], f"both {held[0][0]!r} and {held[1][0]!r}", "one of them", "Drop one.")
    if not held:
        return None
    name, item = held[0]
    return field(item, "url", str, where) if name == "image_url" and isinstance(item, Mapping) else item


def place_pictures(
    roles: Sequence[str], contents: Sequence[Content], pictures: int, where: Where, key: str, tags_are_text: bool
) -> tuple[tuple[Message, ...], tuple[Place, ...], list[Any]]:
    """Messages without tags, the place of each picture, and for each place the picture that its part holds, or None.

    `pictures` are the row's own, which tags and empty picture parts stand for, in order; with neither they go first in
    the first user turn.

    Args:
      roles: of the messages.
      contents: of the messages.
      pictures: pictures that the row has beside its messages.
      where: the row.
      key: the key of the messages.
      tags_are_text: in a row without any picture, tags are text.

    Raises:
      DataError: tags and pictures do not agree, or a tag stands in another turn than the user's, is spelled in another
        way, or is part of some markup.
    """
    parts = [picture for content in contents for picture in content.pictures]
    empty = parts.count(None)
    tags = [0 if content.literal else content.text.count(IMAGE_TAG) for content in contents]
    users = sum(count for role, count in zip(roles, tags, strict=True) if role == "user")
    for index, (role, content) in enumerate(zip(roles, contents, strict=True)):
        if content.offsets and role != "user":
            found = f"a picture in the {role}'s message"
            raise DataError(where, f"{key}[{index}]", found, "pictures in user messages", "Move the picture.")
    if not pictures and tags_are_text and not parts:
        return _untouched(roles, contents), (), []
    if not users and not empty:
        if pictures and any(tags):
            index = next(index for index, count in enumerate(tags) if count)
            found = f"{IMAGE_TAG} in the {roles[index]}'s message and none in a user's"
            raise DataError(where, f"{key}[{index}]", found, "pictures in user messages", f"Move it. {_PARTS_FIX}")
        if pictures and parts:
            found = f"{pictures} pictures beside the {len(parts)} that its parts hold"
            raise DataError(where, key, found, "a part or tag for each", "Add parts, or drop the pictures.")
        if not parts:
            _require_no_other_tags(roles, contents, where, key, bool(pictures))
            messages = _untouched(roles, contents)
            return messages, first_places(messages, pictures), [None] * pictures
    if users + empty != pictures:
        kind = "picture parts" if empty else f"{IMAGE_TAG} tags"
        found = f"{users + empty} {kind} for {pictures} pictures"
        index = next((i for i, c in enumerate(contents) if c.offsets or (tags[i] and roles[i] == "user")), 0)
        fix = "Correct the row; a key 'image' or 'images' holds its pictures."
        raise DataError(where, f"{key}[{index}]", found, "as many tags as pictures", f"{fix} {_PARTS_FIX}")
    for index, (role, content) in enumerate(zip(roles, contents, strict=True)):
        if role == "user" and tags[index] and _MARKUP.search(content.text):
            found = f"{IMAGE_TAG}..</image>, as in SVG or other markup"
            raise DataError(where, f"{key}[{index}]", found, f"{IMAGE_TAG} alone for a picture", _PARTS_FIX)
    messages, places = [], []
    for index, (role, content) in enumerate(zip(roles, contents, strict=True)):
        text, offsets = content.text, content.offsets
        if role == "user" and tags[index]:
            text, offsets = _without_tags(text)
        messages.append(Message(role=role, content=text))
        places += [(index, offset) for offset in offsets]
    held = [
        picture
        for index, content in enumerate(contents)
        for picture in ([None] * tags[index] if tags[index] and roles[index] == "user" else content.pictures)
    ]
    return tuple(messages), tuple(places), held


def _require_no_other_tags(
    roles: Sequence[str], contents: Sequence[Content], where: Where, key: str, pictured: bool
) -> None:
    """Refuses tags that would stay text while their pictures went elsewhere, or nowhere."""
    for index, (role, content) in enumerate(zip(roles, contents, strict=True)):
        if role != "user" or content.literal:
            continue
        tag = _MISSPELT.search(content.text) or (_FOREIGN.search(content.text) if pictured else None)
        if tag:
            found = f"{tag[0]!r}, which is not read as the place of a picture"
            raise DataError(where, f"{key}[{index}]", found, IMAGE_TAG, f"Write {IMAGE_TAG}. {_PARTS_FIX}")


def _untouched(roles: Sequence[str], contents: Sequence[Content]) -> tuple[Message, ...]:
    return tuple(Message(role=role, content=content.text) for role, content in zip(roles, contents, strict=True))


def _without_tags(text: str) -> tuple[str, tuple[int, ...]]:
    """The text without tags and the blank space at its ends, and the characters before which the tags stood."""
    pieces = text.split(IMAGE_TAG)
    joined = "".join(pieces)
    kept = joined.strip()
    before = len(joined) - len(joined.lstrip())
    offsets, at = [], 0
    for piece in pieces[:-1]:
        at += len(piece)
        offsets.append(min(max(at - before, 0), len(kept)))
    return kept, tuple(offsets)
