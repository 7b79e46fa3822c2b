"""MMRole: raw dialogues and profiles -> processed conversations -> one example for each (user, assistant) turn.

Raw items are `{"id", "image", "conversations": [{"role" or "from", "value"}]}`, speaker "human" or a character; a
character's profile is a file of its own. Processed rows are `{"id", "image_path", "conversations": [{"role",
"content"}], "original_roles", "character_role", "character_profile": {role: {field: text}}}`; the built-in data set's
role play has the same layout, with bytes for the path and optional "facts" (a dict, or a list with one a turn).
"""

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lam_jax.data.readers import Drops, read_json, read_rows, resolve_image, strip_image_tag
from lam_jax.data.schemas import DataError, Example, Message, Where, describe, field
from lam_jax.data.sources import require_unique
from lam_jax.data.splits import SEED, cut, hold_out, shuffled
from lam_jax.tasks.task import split_of
from lam_jax.values import hash_json

logger = logging.getLogger("lam_jax")
Placed = tuple[dict[str, Any], Where]  # a processed row, and where its item stands
HUMAN = "human"
PROFILE_FIELDS = ("introduction", "personality", "experience", "relationship", "catchphrase")
IN_DISTRIBUTION, OUT_OF_DISTRIBUTION = "in-distribution", "out-of-distribution"


@dataclasses.dataclass(frozen=True)
class Splits:
    """Examples of the task: SFT rows, RL rows, validation rows of both, ID test, OOD test."""

    sft: list[Example]
    rl: list[Example]
    sft_val: list[Example]
    rl_val: list[Example]
    id_test: list[Example]
    ood_test: list[Example]


def system_message(character: str) -> Message:
    """The system line, which asks to embody the character."""
    return {"role": "system", "content": f"You are {character}. Stay in character."}


def user_prompt(character: str, profile: Mapping[str, str], history: Sequence[tuple[str, str]], question: str) -> str:
    """Name, profile, earlier turns as `[speaker]: text` lines, and the last question; empty parts are left out."""
    lines = [f"Name: {character}"]
    lines += [f"{key.capitalize()}: {profile[key]}" for key in PROFILE_FIELDS if profile.get(key)]
    if history:
        lines += ["History:", *(f"[{speaker}]: {text}" for speaker, text in history)]
    return "\n".join([*lines, f"Question: {question}"])


def mmrole_examples(row: Any, where: Where, image_root: Path | None = None) -> list[Example]:
    """Examples of one processed row, one for each assistant turn that follows a user turn.

    Raises:
      DataError: a key is missing or of a wrong type, the image file does not exist, or no such turn exists.
    """
    identifier = str(field(row, "id", (str, int), where))
    character = field(row, "character_role", str, where)
    profile = field(field(row, "character_profile", dict, where), character, dict, where, "Add its profile.")
    for name in profile:
        field(profile, name, (str, type(None)), Where(f"{where}, character_profile"))
    turns = field(row, "conversations", list, where)
    speakers = field(row, "original_roles", list, where)
    if len(speakers) != len(turns):
        found = f"{len(speakers)} for {len(turns)} conversation turns"
        raise DataError(where, "original_roles", found, "one speaker for each turn", "Process the raw data again.")
    image = resolve_image(row.get("image_path"), image_root, where, "image_path")

    examples: list[Example] = []
    history: list[tuple[str, str]] = []
    facts = row.get("facts")
    for index, (turn, speaker) in enumerate(zip(turns, speakers)):
        place = Where(f"{where}, conversations[{index}]")
        role, text = field(turn, "role", str, place), strip_image_tag(field(turn, "content", str, place))
        if role == "assistant" and index and turns[index - 1]["role"] == "user":
            prompt = user_prompt(character, profile, history[:-1], history[-1][1])
            messages = (
                system_message(character),
                Message(role="user", content=prompt),
                Message(role="assistant", content=text),
            )
            number = len(examples)
            known = _turn_facts(facts, number, where)
            examples.append(Example(f"{identifier}_turn{number}", messages, (image,), known, where))
        history.append((str(speaker), text))
    if not examples:
        found = f"roles {[turn['role'] for turn in turns]}"
        raise DataError(where, "conversations", found, "an assistant turn after a user turn", "Drop the row.")
    return examples


def _turn_facts(facts: Any, turn: int, where: Where) -> dict[str, Any] | None:
    """Facts of one turn: shared by all turns, one a turn, or none."""
    if facts is None or isinstance(facts, dict):
        return facts
    if isinstance(facts, list) and turn < len(facts):
        return facts[turn]
    raise DataError(where, "facts", describe(facts), f"a dict, or a list that covers turn {turn}", "Correct the row.")


def process_row(row: Any, where: Where, profiles: Mapping[str, Any], image_root: Path, drops: Drops) -> dict | None:
    """A raw item as a processed row, or None (counted in `drops`) where the method drops it.

    Dropped: missing image, empty conversation, no character among the speakers, missing or unreadable profile.

    Raises:
      DataError: the item lacks a key or has one of a wrong type.
    """
    identifier = str(field(row, "id", (str, int), where))
    turns = field(row, "conversations", list, where)
    if not turns:
        return drops.add("empty conversation")
    speakers, conversation = [], []
    for index, turn in enumerate(turns):
        place = Where(f"{where}, conversations[{index}]")
        speaker = field(turn, "role" if isinstance(turn, Mapping) and "role" in turn else "from", str, place)
        role = "user" if speaker == HUMAN else "assistant"
        speakers.append(speaker)
        conversation.append({"role": role, "content": field(turn, "value", str, place)})
    character = next((speaker for speaker in reversed(speakers) if speaker != HUMAN), None)
    if character is None:
        return drops.add("no character speaks")
    image = row.get("image")
    if not isinstance(image, str) or not (image_root / image).is_file():
        return drops.add("missing image")
    profile = profiles.get(character)
    if profile is None:
        return drops.add("unreadable profile")
    return {
        "id": identifier,
        "image_path": image,
        "conversations": conversation,
        "original_roles": speakers,
        "character_role": character,
        "character_profile": {character: profile},
    }


def read_profiles(folder: Path) -> dict[str, dict[str, str]]:
    """Profiles by character name from `NAME_WITH_UNDERSCORES.json` files; an unreadable one is left out.

    A file holds the profile, or `{name: profile}`; the fields are `PROFILE_FIELDS`, absent ones become empty.

    Raises:
      DataError: the folder does not exist.
    """
    if not folder.is_dir():
        raise DataError(Where(str(folder)), None, "no such folder", "MMRole's profiles", "Correct the raw folder.")
    profiles = {}
    for path in sorted(folder.glob("*.json")):
        name = path.stem.replace("_", " ")
        try:
            content = read_json(path)
        except DataError:
            continue
        if isinstance(content, dict):
            content = content[name] if isinstance(content.get(name), dict) else content
            if any(isinstance(content.get(key), str) for key in PROFILE_FIELDS):
                profiles[name] = {key: str(content.get(key) or "") for key in PROFILE_FIELDS}
    return profiles


def process_raw(raw: Path, image_root: Path, distribution: str, drops: Drops) -> list[Placed]:
    """Processed commentary rows of the raw folder; `distribution` is in-distribution or out-of-distribution.

    Files are read in the order of their names (the released code's glob is unsorted, so its splits cannot be had).

    Raises:
      DataError: the folder's layout is another, or an item is bad.
    """
    dialogues = raw / "dialogues" / distribution
    paths = (
        [dialogues / "comment.json"]
        if distribution == OUT_OF_DISTRIBUTION
        else sorted(dialogues.glob("comment/*.json"))
    )
    if not paths:
        where, found = Where(str(dialogues / "comment")), "no JSON file"
        raise DataError(where, None, found, "MMRole's commentary dialogues", "Correct the raw folder.")
    profiles = read_profiles(raw / "profiles" / distribution / "detailed_profiles")
    processed = []
    for path in paths:
        for index, row in enumerate(read_rows(path)):
            where = Where(str(path), index)
            done = process_row(row, where, profiles, image_root, drops)
            if done is not None:
                processed.append((done, where))
    return processed


def mmrole_splits(
    in_rows: Sequence[Placed], out_rows: Sequence[Placed], image_root: Path | None, seed: int = SEED
) -> Splits:
    """The paper's splits of processed rows: conversations shuffled, 0-50 % SFT, 50-90 % RL, 90-100 % ID test.

    A tenth of the SFT and of the RL examples is held out for validation; `out_rows` is the OOD test.
    """

    def examples(rows: Sequence[Placed]) -> list[Example]:
        return [example for row, where in rows for example in mmrole_examples(row, where, image_root)]

    rows = shuffled(in_rows, seed)
    sft, sft_val = hold_out(examples(cut(rows, 0.0, 0.5)), 0.1, seed)
    rl, rl_val = hold_out(examples(cut(rows, 0.5, 0.9)), 0.1, seed)
    return Splits(sft, rl, sft_val, rl_val, examples(cut(rows, 0.9, 1.0)), examples(out_rows))


def read_mmrole(raw: Path, image_root: Path, seed: int = SEED) -> tuple[Splits, Drops]:
    """All splits of a raw MMRole folder, and the rows that were dropped."""
    drops = Drops()
    in_rows = process_raw(raw, image_root, IN_DISTRIBUTION, drops)
    out_rows = process_raw(raw, image_root, OUT_OF_DISTRIBUTION, drops)
    return mmrole_splits(in_rows, out_rows, image_root, seed), drops


@dataclasses.dataclass(frozen=True)
class MMRoleRows:
    """The raw MMRole folder as a source, with the splits of `Splits`.

    Attributes:
        folder: raw dialogues and profiles.
        images: folder that the dialogues' picture paths start from.
        seed: of the splits.
    """

    folder: str
    images: str
    seed: int = SEED

    def prepare(self, folder: Path) -> None:
        """Nothing: the files are read as they are."""

    def read(self, folder: Path, split: str) -> list[Example]:
        """The examples of a split; rows that the method drops are reported on the log.

        Raises:
            DataError: no such split, a file or row that cannot be used, or no row is left.
        """
        splits, drops = read_mmrole(Path(self.folder), Path(self.images), self.seed)
        found = split_of(splits, split, self.folder)
        if not found:
            fix = "Correct the folder of the pictures, or add dialogues."
            raise DataError(Where(self.folder), None, f"no rows for {split!r}; {drops}", "one row or more", fix)
        if drops.total:
            logger.warning("%s: %s", self.folder, drops)
        require_unique(found)
        return found

    def content(self) -> str:
        """SHA-256 of the rows that are left, by file, with their profiles; pictures count by their paths."""
        rows = [
            (row, Path(where.file).relative_to(self.folder).as_posix(), where.row)
            for distribution in (IN_DISTRIBUTION, OUT_OF_DISTRIBUTION)
            for row, where in process_raw(Path(self.folder), Path(self.images), distribution, Drops())
        ]
        return hash_json(rows)
