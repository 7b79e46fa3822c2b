"""What a row of a file means: chats, LLaVA and ShareGPT conversations, prompts of TRL, problems of EasyR1.

The key that holds the text tells which: `messages`, `conversations`, `prompt` or `problem`; a row with two of them is
an error, as is a key that is not read. A null value is an absent key, as in a table whose rows differ.
"""

import dataclasses
import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from lam_jax.data.pictures import resolve_image
from lam_jax.data.schemas import ROLES, DataError, Example, Where, describe, field, require_reference, require_text
from lam_jax.data.tags import Content, place_pictures, read_content

Turn = tuple[str, Content]  # role and content
ANSWERS = ("completion", "answer", "solution")
COMMON = ("id", "image", "images", "facts")
# Key of the text -> what else a row of that layout may hold.
LAYOUTS = {
    "messages": (*COMMON, "instance_type"),
    "conversations": (*COMMON, "instance_type"),
    "prompt": (*COMMON, *ANSWERS),
    "problem": (*COMMON, *ANSWERS),
}
SPEAKERS = {"human": "user", "gpt": "assistant"}  # ShareGPT's words for roles; others stay what they are
_PICTURES = (
    "img",
    "imgs",
    "pic",
    "pics",
    "picture",
    "pictures",
    "photo",
    "photos",
    "image_path",
    "image_file",
    "img_path",
)


@dataclasses.dataclass(frozen=True)
class RowParser:
    """Makes the example of a row, whichever of `LAYOUTS` it has; called as (row, where, image_root).

    Attributes:
      facts: other columns of the rows, which go into the facts, where a reward finds them.
      picture_folders: folders besides the image root that pictures may lie in, absolute or behind links.
      reference: the last message must be the assistant's.
      tags: what `<image>` means in a user's text. "agree": the place of a picture, of which there must be as many;
        "text alone": the same in rows with pictures, and text in others; "text": text always, and the pictures go first
        in the first user turn, as in the released code.
    """

    facts: tuple[str, ...] = ()
    picture_folders: tuple[str, ...] = ()
    reference: bool = False
    tags: Literal["agree", "text alone", "text"] = "agree"

    def __post_init__(self):
        known = {*LAYOUTS, *COMMON, *ANSWERS}
        if bad := [name for name in self.facts if name in known - {*ANSWERS}]:
            raise ValueError(f"RowParser.facts holds {bad[0]!r}, which is no other column: it is read as it is.")
        if self.tags not in ("agree", "text alone", "text"):
            raise ValueError(f"RowParser.tags is {self.tags!r}, expected 'agree', 'text alone' or 'text'.")

    def __call__(self, row: Any, where: Where, image_root: Path | None = None) -> list[Example]:
        """The example of a row.

        Raises:
          DataError: the row has no layout or several, a key is missing, unknown or of a wrong type, a picture is not
            there or outside of its folders, or tags and pictures do not agree.
        """
        made = self._example(row, where, image_root)
        return [require_reference(made) if self.reference else made]

    def _example(self, row: Any, where: Where, image_root: Path | None) -> Example:
        if not isinstance(row, Mapping):
            field(row, "id", (str, int), where)
        row = {key: value for key, value in row.items() if value is not None}
        key = _layout_of(row, where)
        self._require_known(row, key, where)
        identifier = _identifier(row, key, where)
        turns = _turns({name: value for name, value in row.items() if name not in self.facts}, key, where)
        roles, contents = [role for role, _ in turns], [content for _, content in turns]
        values = _pictures(row, where)
        if self.tags == "text":
            contents = [dataclasses.replace(content, literal=True) for content in contents]
        alone = self.tags != "agree"
        messages, places, held = place_pictures(roles, contents, len(values), where, key, alone)
        own = iter(values)
        pictures = [next(own) if item is None else (f"{key} (part {i})", item) for i, item in enumerate(held)]
        folders = [Path(folder) for folder in self.picture_folders]
        images = tuple(resolve_image(value, image_root, where, name, folders) for name, value in pictures)
        return Example(identifier, messages, images, self._facts(row, where), where, places)

    def _require_known(self, row: Mapping[str, Any], key: str, where: Where) -> None:
        known = (key, *LAYOUTS[key])
        for name in row:
            if name in known or name in self.facts:
                continue
            if str(name).lower() in ("video", "videos"):
                raise DataError(where, str(name), "a video", "pictures alone", "Videos are not read: drop the row.")
            close = difflib.get_close_matches(str(name).lower(), known, 1, 0.75)
            meant = "images" if str(name).lower() in _PICTURES else close[0] if close else None
            fix = f"Rename it to {meant!r}" if meant else "Rename or drop it"
            more = "" if meant in ("image", "images") else f", or name it as a column for the facts (--facts {name})"
            raise DataError(where, str(name), "a key that is not read", f"some of {known}", f"{fix}{more}.")

    def _facts(self, row: Mapping[str, Any], where: Where) -> dict[str, Any] | None:
        facts = row_facts(row, where)
        columns = {name: row[name] for name in self.facts if name in row}
        for name, value in columns.items():
            if facts and name in facts:
                raise DataError(where, name, "the name in 'facts' too", "it once", "Rename the column.")
            _require_plain(value, where, name)
        return {**(facts or {}), **columns} if columns else facts


def row_facts(row: Mapping[str, Any], where: Where) -> dict[str, Any] | None:
    """The optional facts of a row."""
    return field(row, "facts", dict, where) if row.get("facts") is not None else None


def _require_plain(value: Any, where: Where, key: str) -> None:
    if isinstance(value, Mapping):
        for name, item in value.items():
            _require_plain(item, where, f"{key}.{name}")
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            _require_plain(item, where, f"{key}[{index}]")
    elif isinstance(value, int):
        _written(value, where, key)
    elif not (value is None or isinstance(value, str | float)):
        fix = "Facts are what JSON can hold; pictures belong under 'images'."
        raise DataError(where, key, describe(value), "text, numbers, lists and objects", fix)


def _layout_of(row: Mapping[str, Any], where: Where) -> str:
    found = [key for key in LAYOUTS if key in row]
    if len(found) > 1:
        raise DataError(where, found[1], f"both {found[0]!r} and {found[1]!r}", "one of them", "Drop one of the keys.")
    if not found:
        field(row, "messages", list, where, f"A row has one of {tuple(LAYOUTS)}: add it, or correct its name.")
    return found[0]


def _identifier(row: Mapping[str, Any], key: str, where: Where) -> str:
    if "id" not in row and key != "messages" and where.row is not None:
        return f"{Path(where.file).name.partition('.')[0]}_{where.row}"
    value = field(row, "id", (str, int), where)
    if isinstance(value, bool) or value == "":
        raise DataError(where, "id", describe(value), "a text or a number", "Give the row a name of its own.")
    require_text(value, where, "id")
    return _written(value, where, "id")


def _written(value: str | int, where: Where, key: str) -> str:
    try:
        return str(value)
    except ValueError as error:  # Python writes no integers of thousands of digits
        raise DataError(where, key, "a number of too many digits", "a short one", "Write it as text.") from error


def _turns(row: Mapping[str, Any], key: str, where: Where) -> list[Turn]:
    if key in ("messages", "conversations"):
        return _messages(field(row, key, list, where), where, key)
    prompt = field(row, key, (str, list), where)
    turns = [("user", Content(prompt))] if isinstance(prompt, str) else _messages(prompt, where, key)
    if not turns or turns[-1][0] != "user":
        found = f"a last message of the {turns[-1][0]}" if turns else "no messages"
        raise DataError(where, key, found, "the user's, which is answered", "Move what follows into 'completion'.")
    return turns + _answer(row, where)


def _answer(row: Mapping[str, Any], where: Where) -> list[Turn]:
    given = [name for name in ANSWERS if name in row]
    if len(given) > 1:
        found = f"both {given[0]!r} and {given[1]!r}"
        fix = f"Drop the one that is not the reference, or name it as a column for the facts (--facts {given[1]})."
        raise DataError(where, given[1], found, "one of them", fix)
    if not given:
        return []
    (name,) = given
    value = row[name]
    if name == "completion" and isinstance(value, list):
        turns = _messages(value, where, name)
        if not turns or turns[-1][0] != "assistant":
            raise DataError(where, name, describe(value), "an assistant message last", "Correct the row.")
        return turns
    if isinstance(value, bool) or not isinstance(value, str | int):
        fix = "Write it as text." if isinstance(value, float) else "Correct the row."
        raise DataError(where, name, describe(value), "str or int", fix)
    text = _written(value, where, name)
    if not text.strip():
        raise DataError(where, name, describe(value), "a non-empty answer", "Drop the key or the row.")
    return [("assistant", Content(text, literal=True))]


def _messages(values: Any, where: Where, key: str) -> list[Turn]:
    """Turns of messages {"role", "content"} or {"from", "value"}."""
    turns: list[Turn] = []
    for index, raw in enumerate(values):
        if isinstance(raw, dict) and len(raw) == 2 and raw.get("role") in ROLES and type(raw.get("content")) is str:
            turns.append((raw["role"], Content(raw["content"])))  # what nearly all are, without names for messages
            continue
        place = Where(f"{where}, {key}[{index}]")
        value = {name: item for name, item in raw.items() if item is not None} if isinstance(raw, Mapping) else raw
        speaks = isinstance(value, Mapping) and ("from" in value or "value" in value)
        if speaks and ("role" in value or "content" in value):
            name = "role" if "role" in value else "content"
            raise DataError(place, name, f"{name!r} beside 'from' and 'value'", "one of the two forms", "Drop one.")
        names = ("from", "value") if speaks else ("role", "content")
        if names[1] not in (value if isinstance(value, Mapping) else ()):
            field(value, names[1], str, place)
        role = field(value, names[0], str, place)
        if unknown := sorted(map(str, set(value) - set(names))):
            raise DataError(place, unknown[0], "a key that is not read", f"{names}", "Drop the key or the row.")
        if speaks:
            role = SPEAKERS.get(role, role)
        if role not in ROLES:
            known = (*SPEAKERS, *ROLES) if speaks else ROLES
            raise DataError(where, f"{key}[{index}].{names[0]}", describe(role), f"one of {known}", "Rename the role.")
        content = value[names[1]]
        if not isinstance(content, str | list | tuple):
            field(value, names[1], str, place)
        turns.append((role, read_content(content, place, names[1])))
    return turns


def _pictures(row: Mapping[str, Any], where: Where) -> list[tuple[str, Any]]:
    """(key, value) of the pictures under `image` or `images`."""
    if "image" in row and "images" in row:
        if row["images"] != []:
            raise DataError(where, "image", "both 'image' and 'images'", "one of them", "Drop one of the keys.")
        row = {key: value for key, value in row.items() if key != "images"}
    if "image" in row:
        value = row["image"]
        if isinstance(value, list):
            return [(f"image[{index}]", item) for index, item in enumerate(value)]
        return [("image", value)]
    values = field(row, "images", list, where) if "images" in row else []
    return [(f"images[{index}]", value) for index, value in enumerate(values)]
