"""MMRole: raw dialogues and profiles -> processed conversations -> one example for each (user, assistant) turn.

Of its three kinds of dialogue, commentary (`comment`), a person and a character (`human-role`) and two characters
(`inter-role`), the paper uses commentary alone; `MMRoleRows.kinds` takes others. Raw items are `{"id", "image",
"conversations": [{"role" or "from", "value"}]}`, speaker "human" or a character; a character's profile is a file of its
own. Processed rows are `{"id", "image_path", "conversations": [{"role", "content"}], "original_roles",
"character_role", "character_profile": {role: {field: text}}}`; the built-in data set's role play has the same layout,
with bytes for the path and optional "facts" (a dict, or a list with one a turn).
"""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lam_jax.data.bad_rows import picture_in, tried
from lam_jax.data.readers import Drops, read_json, read_rows, strip_image_tag
from lam_jax.data.schemas import DataError, Example, Message, Where, describe, field
from lam_jax.data.splits import SEED, cut, hold_out, shuffled
from lam_jax.tasks.picture_files import picture_file, task_picture
from lam_jax.tasks.task import report_drops, split_of
from lam_jax.values import hash_json

Placed = tuple[dict[str, Any], Where]  # a processed row, and where its item stands
HUMAN = "human"
PROFILE_FIELDS = ("introduction", "personality", "experience", "relationship", "catchphrase")
COMMENT, HUMAN_ROLE, INTER_ROLE = "comment", "human-role", "inter-role"
KINDS = (COMMENT, HUMAN_ROLE, INTER_ROLE)
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
    image = task_picture(row.get("image_path"), image_root, where, "image_path")

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


def process_row(
    row: Any,
    where: Where,
    profiles: Mapping[str, Any],
    image_root: Path,
    drops: Drops,
    kind: str = COMMENT,
    known: set[str] | None = None,
) -> dict | None:
    """A raw item as a processed row, or None where it is left out, with its reason and place in `drops`.

    The method leaves out items with a missing image, an empty conversation, no character among the speakers, or a
    missing or unreadable profile. Whatever else cannot be used is left out too and has a reason of its own.

    Args:
      row, where: the item and its place.
      profiles: of characters, by name.
      image_root: folder of the pictures.
      drops: what is left out is counted here.
      kind: of the dialogue, one of `KINDS`.
      known: ids so far, to which the item's is added; a second item with one id is left out.
    """
    try:
        return _processed(row, where, profiles, image_root, kind, set() if known is None else known)
    except _Odd as odd:
        drops.add(odd.reason, where, odd.detail, picture_in(row))
        return None


class _Odd(Exception):
    """Why an item cannot be used."""

    def __init__(self, reason: str, detail: str = ""):
        super().__init__(reason)
        self.reason, self.detail = reason, detail


def _processed(
    row: Any, where: Where, profiles: Mapping[str, Any], image_root: Path, kind: str, known: set[str]
) -> dict[str, Any]:
    if not isinstance(row, Mapping):
        raise _Odd("no object", describe(row))
    identifier = row.get("id")
    if not isinstance(identifier, str | int) or isinstance(identifier, bool) or identifier == "":
        raise _Odd("no id", describe(identifier))
    turns = row.get("conversations")
    if not isinstance(turns, list):
        raise _Odd("no conversation", describe(turns))
    if not turns:
        raise _Odd("empty conversation")
    said = [_turn(turn, index) for index, turn in enumerate(turns)]
    speakers = [speaker for speaker, _ in said]
    character = _character(speakers, kind)
    if character is None:
        raise _Odd("no character speaks", f"speakers {sorted(set(speakers))}")
    image = picture_file(image_root, row.get("image"))
    if isinstance(image, str):
        raise _Odd(image, describe(row.get("image")))
    if profiles.get(character) is None:
        raise _Odd("unreadable profile", repr(character))
    roles = [_role(speaker, character, kind) for speaker in speakers]
    for index, (role, (_, text)) in enumerate(zip(roles, said)):
        answered = role == "assistant" or roles[index + 1 : index + 2] == ["assistant"]
        if answered and not strip_image_tag(text).strip():
            raise _Odd("empty answer" if role == "assistant" else "empty question", f"conversations[{index}]")
    if not any(pair == ("user", "assistant") for pair in itertools.pairwise(roles)):
        raise _Odd("no answer to a user", f"roles {roles}")
    if str(identifier) in known:
        raise _Odd("duplicate id", repr(identifier))
    known.add(str(identifier))
    return {
        "id": str(identifier),
        "image_path": row["image"],
        "conversations": [{"role": role, "content": text} for role, (_, text) in zip(roles, said)],
        "original_roles": speakers,
        "character_role": character,
        "character_profile": {character: profiles[character]},
    }


def _turn(turn: Any, index: int) -> tuple[str, str]:
    """Speaker and text of a raw turn."""
    place = f"conversations[{index}]"
    if not isinstance(turn, Mapping):
        raise _Odd("turn that is no object", f"{place}: {describe(turn)}")
    speaker = turn.get("role") if "role" in turn else turn.get("from")
    if not isinstance(speaker, str) or not speaker:
        raise _Odd("turn without speaker", f"{place}: {describe(speaker)}")
    text = turn.get("value")
    if not isinstance(text, str):
        raise _Odd("turn without text", f"{place}: {describe(text)}")
    return speaker, text


def _character(speakers: Sequence[str], kind: str) -> str | None:
    """Who is embodied: the last speaker that is no person; between two characters, the one who answers the first."""
    if kind == INTER_ROLE:
        return next((speaker for speaker in speakers if speaker not in (speakers[0], HUMAN)), None)
    return next((speaker for speaker in reversed(speakers) if speaker != HUMAN), None)


def _role(speaker: str, character: str, kind: str) -> str:
    other = speaker != character if kind == INTER_ROLE else speaker == HUMAN
    return "user" if other else "assistant"


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


def process_raw(
    raw: Path,
    image_root: Path,
    distribution: str,
    drops: Drops,
    kinds: Sequence[str] = (COMMENT,),
    known: set[str] | None = None,
) -> list[Placed]:
    """Processed rows of the raw folder; `distribution` is in-distribution or out-of-distribution.

    Kinds come in the order of `kinds`, files in the order of their names (the released code's glob is unsorted, so its
    splits cannot be had). `known` collects ids, see `process_row`.

    Raises:
      DataError: the folder's layout is another, or a file is not JSON or no list.
    """
    files = [(kind, path) for kind in kinds for path in _dialogue_files(raw, distribution, kind)]
    profiles = read_profiles(raw / "profiles" / distribution / "detailed_profiles")
    known = set() if known is None else known
    processed = []
    for kind, path in files:
        for index, row in enumerate(read_rows(path)):
            where = Where(str(path), index)
            done = process_row(row, where, profiles, image_root, drops, kind, known)
            if done is not None:
                processed.append((done, where))
    return processed


def _dialogue_files(raw: Path, distribution: str, kind: str) -> list[Path]:
    """Files of one kind: a folder of them in distribution, one file out of distribution."""
    dialogues = raw / "dialogues" / distribution
    single = dialogues / f"{kind}.json"
    paths = sorted((dialogues / kind).glob("*.json")) or ([single] if single.is_file() else [])
    if not paths:
        where, found = Where(str(dialogues / kind)), "no JSON file"
        raise DataError(where, None, found, f"MMRole's dialogues of the kind {kind}", "Correct the raw folder.")
    return paths


def mmrole_splits(
    in_rows: Sequence[Placed], out_rows: Sequence[Placed], image_root: Path | None, seed: int = SEED
) -> Splits:
    """The paper's splits of processed rows: conversations shuffled, 0-50 % SFT, 50-90 % RL, 90-100 % ID test.

    A tenth of the SFT and of the RL examples is held out for validation; `out_rows` is the OOD test.
    """

    def examples(rows: Sequence[Placed]) -> list[Example]:
        return [example for row, where in rows for example in tried(mmrole_examples, row, where, image_root)]

    rows = shuffled(in_rows, seed)
    sft, sft_val = hold_out(examples(cut(rows, 0.0, 0.5)), 0.1, seed)
    rl, rl_val = hold_out(examples(cut(rows, 0.5, 0.9)), 0.1, seed)
    return Splits(sft, rl, sft_val, rl_val, examples(cut(rows, 0.9, 1.0)), examples(out_rows))


def read_mmrole(
    raw: Path, image_root: Path, seed: int = SEED, kinds: Sequence[str] = (COMMENT,)
) -> tuple[Splits, Drops]:
    """All splits of a raw MMRole folder, and the rows that were dropped.

    Raises:
      DataError: the folder's layout is another, or a file is not JSON or no list.
    """
    drops, known = Drops(), set()
    in_rows = process_raw(raw, image_root, IN_DISTRIBUTION, drops, kinds, known)
    out_rows = process_raw(raw, image_root, OUT_OF_DISTRIBUTION, drops, kinds, known)
    return mmrole_splits(in_rows, out_rows, image_root, seed), drops


@dataclasses.dataclass(frozen=True)
class MMRoleRows:
    """The raw MMRole folder as a source, with the splits of `Splits`.

    Attributes:
        folder: raw dialogues and profiles.
        images: folder that the dialogues' picture paths start from.
        seed: of the splits.
        kinds: which of `KINDS` are read; the paper reads commentary alone.
    """

    folder: str
    images: str
    seed: int = SEED
    kinds: tuple[str, ...] = (COMMENT,)

    def __post_init__(self):
        if not self.kinds or len(set(self.kinds)) < len(self.kinds) or not set(self.kinds) <= set(KINDS):
            raise ValueError(f"MMRoleRows.kinds is {self.kinds}, expected one or more of {KINDS}, each once.")

    def prepare(self, folder: Path) -> None:
        """Nothing: the files are read as they are."""

    def read(self, folder: Path, split: str) -> list[Example]:
        """The examples of a split; rows that are left out are reported on the log, by reason.

        Raises:
            DataError: no such split, a folder or file that cannot be used, or no row is left.
        """
        splits, drops = read_mmrole(Path(self.folder), Path(self.images), self.seed, self.kinds)
        found = split_of(splits, split, self.folder)
        if not found:
            fix = "Correct the folder of the pictures, or add dialogues."
            raise DataError(Where(self.folder), None, f"no rows for {split!r}; {drops}", "one row or more", fix)
        report_drops(self.folder, drops)
        return found

    def content(self) -> str:
        """SHA-256 of the rows that are left, by file, with their profiles; pictures count by their paths."""
        known: set[str] = set()
        rows = [
            (row, Path(where.file).relative_to(self.folder).as_posix(), where.row)
            for distribution in (IN_DISTRIBUTION, OUT_OF_DISTRIBUTION)
            for row, where in process_raw(
                Path(self.folder), Path(self.images), distribution, Drops(), self.kinds, known
            )
        ]
        return hash_json(rows)
