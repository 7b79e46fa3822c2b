"""PCogAlignBench: a user's role set, a picture, a question, and a golden answer that fits that user.

Rows are `{"individual_RoleSet": {location: role}, "query", "golden_response", "image": {"file_path"}, "eval_info":
{"ImageDesc", "location", "EvalHelp"}}`; the built-in data set's personalised help has the same layout, with bytes for
the path and optional "facts".
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lam_jax.data.bad_rows import picture_in, tried
from lam_jax.data.readers import Drops, read_rows, row_facts, strip_image_tag
from lam_jax.data.schemas import DataError, Example, Message, Where, describe, field
from lam_jax.data.sources import hash_files
from lam_jax.data.splits import SEED, cut, hold_out, shuffled
from lam_jax.tasks.picture_files import picture_file, task_picture
from lam_jax.tasks.task import report_drops, split_of

Placed = tuple[Any, Where]  # a row, and where it stands
FILES = ("HCMAS-golden-train", "HCMAS-golden-test", "HCSHR-golden-test")  # training, LS1, LS2


@dataclasses.dataclass(frozen=True)
class Splits:
    """Examples of the task: SFT rows, RL rows, validation rows, LS1 (known role sets), LS2 (new role sets)."""

    sft: list[Example]
    rl: list[Example]
    val: list[Example]
    ls1: list[Example]
    ls2: list[Example]


def system_message(role_set: Mapping[str, str]) -> Message:
    """The system line, which tells the user's roles: "role at location; role at location"."""
    roles = "; ".join(f"{role} at {location}" for location, role in role_set.items())
    return {"role": "system", "content": f'You are a helpful assistant for a user who is "{roles}".'}


def pcogalign_examples(row: Any, where: Where, image_root: Path | None = None) -> list[Example]:
    """The example of one row. Without own facts, the judge's inputs (`eval_info` and the role set) are its facts.

    Raises:
      DataError: a key is missing or of a wrong type, the role set is empty, or the image file does not exist.
    """
    role_set = field(row, "individual_RoleSet", dict, where)
    if not role_set or not all(isinstance(role, str) for role in role_set.values()):
        raise DataError(where, "individual_RoleSet", describe(role_set), "{location: role} texts", "Correct the row.")
    query, answer = field(row, "query", str, where), field(row, "golden_response", str, where)
    image = task_picture(field(row, "image", dict, where).get("file_path"), image_root, where, "image.file_path")
    info = field(row, "eval_info", dict, where)
    for key in ("ImageDesc", "location", "EvalHelp"):
        field(info, key, (str, list, dict), where, "Restore the judge's inputs in eval_info.")
    messages = (
        system_message(role_set),
        Message(role="user", content=strip_image_tag(query)),
        Message(role="assistant", content=answer),
    )
    facts = row_facts(row, where) or {"task": "help", "role_set": role_set, **info}
    return [Example(_name(row, where), messages, (image,), facts, where)]


def pcogalign_splits(
    train: Sequence[Placed], ls1: Sequence[Placed], ls2: Sequence[Placed], image_root: Path | None, seed: int = SEED
) -> Splits:
    """The paper's splits: training rows shuffled, 0-50 % SFT, 50-70 % RL, a tenth of the SFT rows for validation."""

    def examples(rows: Sequence[Placed]) -> list[Example]:
        return [example for row, where in rows for example in tried(pcogalign_examples, row, where, image_root)]

    rows = shuffled(train, seed)
    sft, val = hold_out(examples(cut(rows, 0.0, 0.5)), 0.1, seed)
    return Splits(sft, examples(cut(rows, 0.5, 0.7)), val, examples(ls1), examples(ls2))


def why_odd(row: Any, where: Where, image_root: Path | None, golden: bool = True) -> tuple[str, str] | None:
    """Reason and detail why a row cannot be used, or None.

    Args:
      row, where: the row and its place.
      image_root: folder of the pictures; None: the picture is not looked for.
      golden: the row has to have its golden answer.
    """
    if not isinstance(row, Mapping):
        return "no object", describe(row)
    role_set = row.get("individual_RoleSet")
    if not isinstance(role_set, dict) or not role_set or not all(isinstance(r, str) for r in role_set.values()):
        return "no role set", describe(role_set)
    if not isinstance(query := row.get("query"), str) or not strip_image_tag(query).strip():
        return "no question", describe(query)
    if golden and not has_golden_answer(row):
        return "no golden answer", describe(row.get("golden_response"))
    name = image.get("file_path") if isinstance(image := row.get("image"), Mapping) else None
    if image_root is not None and isinstance(found := picture_file(image_root, name), str):
        return found, describe(name)
    info = row.get("eval_info")
    keys = ("ImageDesc", "location", "EvalHelp")
    if not isinstance(info, dict) or not all(isinstance(info.get(key), str | list | dict) for key in keys):
        return "no eval_info", describe(info)
    try:
        if golden and image_root is not None:
            pcogalign_examples(row, where, image_root)
    except DataError as error:
        return "unusable row", str(error)
    return None


def has_golden_answer(row: Mapping[str, Any]) -> bool:
    """Whether the row has a golden answer that is not blank."""
    answer = row.get("golden_response")
    return isinstance(answer, str) and bool(answer.strip())


def usable_rows(rows: Iterable[Placed], image_root: Path | None, drops: Drops, golden: bool = True) -> list[Placed]:
    """The rows that can be used; others, and second rows with one id, are counted in `drops`."""
    kept, known = [], set()
    for row, where in rows:
        odd = why_odd(row, where, image_root, golden)
        name = _name(row, where) if odd is None else ""
        if odd is None and name in known:
            odd = "duplicate id", repr(name)
        if odd is not None:
            drops.add(odd[0], where, odd[1], picture_in(row))
            continue
        known.add(name)
        kept.append((row, where))
    return kept


def _name(row: Mapping[str, Any], where: Where) -> str:
    return str(row.get("id", f"{Path(where.file).stem}_{where.row}"))


def placed_rows(path: Path) -> list[Placed]:
    """The rows of a file with their places.

    Raises:
      DataError: the file cannot be read or holds no list.
    """
    return [(row, Where(str(path), index)) for index, row in enumerate(read_rows(path))]


def read_pcogalign(folder: Path, image_root: Path, seed: int = SEED) -> tuple[Splits, Drops]:
    """All splits of a folder with the benchmark's three files (NAME.json), and the rows that were dropped.

    Raises:
      DataError: a file is missing, is not JSON or holds no list.
    """
    drops = Drops()
    train, ls1, ls2 = (usable_rows(placed_rows(folder / f"{name}.json"), image_root, drops) for name in FILES)
    return pcogalign_splits(train, ls1, ls2, image_root, seed), drops


@dataclasses.dataclass(frozen=True)
class PCogAlignRows:
    """The benchmark's folder as a source, with the splits of `Splits`.

    Attributes:
        folder: with the three files.
        images: folder that picture paths start from.
        seed: of the splits.
    """

    folder: str
    images: str
    seed: int = SEED

    def prepare(self, folder: Path) -> None:
        """Nothing: the files are read as they are."""

    def read(self, folder: Path, split: str) -> list[Example]:
        """The examples of a split; rows that are left out are reported on the log, by reason.

        Raises:
            DataError: no such split, a file that cannot be used, or no row is left.
        """
        splits, drops = read_pcogalign(Path(self.folder), Path(self.images), self.seed)
        found = split_of(splits, split, self.folder)
        if not found:
            fix = "Correct the folder of the pictures; `lam-jax data build pcogalign` makes missing golden answers."
            raise DataError(Where(self.folder), None, f"no rows for {split!r}; {drops}", "one row or more", fix)
        report_drops(self.folder, drops)
        return found

    def content(self) -> str:
        """SHA-256 of the three files; pictures count by their paths."""
        return hash_files([Path(self.folder) / f"{name}.json" for name in FILES])
