"""PCogAlignBench: a user's role set, a picture, a question, and a golden answer that fits that user.

Rows are `{"individual_RoleSet": {location: role}, "query", "golden_response", "image": {"file_path"}, "eval_info":
{"ImageDesc", "location", "EvalHelp"}}`; the built-in data set's personalised help has the same layout, with bytes for
the path and optional "facts".
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lam_jax.data.bad_rows import tried
from lam_jax.data.readers import read_rows, resolve_image, row_facts, strip_image_tag
from lam_jax.data.schemas import DataError, Example, Message, Where, describe, field
from lam_jax.data.sources import hash_files, require_unique
from lam_jax.data.splits import SEED, cut, hold_out, shuffled
from lam_jax.tasks.task import split_of

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
    image = resolve_image(field(row, "image", dict, where).get("file_path"), image_root, where, "image.file_path")
    info = field(row, "eval_info", dict, where)
    for key in ("ImageDesc", "location", "EvalHelp"):
        field(info, key, (str, list, dict), where, "Restore the judge's inputs in eval_info.")
    messages = (
        system_message(role_set),
        Message(role="user", content=strip_image_tag(query)),
        Message(role="assistant", content=answer),
    )
    facts = row_facts(row, where) or {"task": "help", "role_set": role_set, **info}
    name = str(row.get("id", f"{Path(where.file).stem}_{where.row}"))
    return [Example(name, messages, (image,), facts, where)]


def pcogalign_splits(
    train: Sequence[Placed], ls1: Sequence[Placed], ls2: Sequence[Placed], image_root: Path | None, seed: int = SEED
) -> Splits:
    """The paper's splits: training rows shuffled, 0-50 % SFT, 50-70 % RL, a tenth of the SFT rows for validation."""

    def examples(rows: Sequence[Placed]) -> list[Example]:
        return [example for row, where in rows for example in tried(pcogalign_examples, row, where, image_root)]

    rows = shuffled(train, seed)
    sft, val = hold_out(examples(cut(rows, 0.0, 0.5)), 0.1, seed)
    return Splits(sft, examples(cut(rows, 0.5, 0.7)), val, examples(ls1), examples(ls2))


def read_pcogalign(folder: Path, image_root: Path, seed: int = SEED) -> Splits:
    """All splits of a folder with the benchmark's three files (NAME.json).

    Raises:
      DataError: a file or a row is bad.
    """

    def placed(name: str) -> list[Placed]:
        path = folder / f"{name}.json"
        return [(row, Where(str(path), index)) for index, row in enumerate(read_rows(path))]

    train, ls1, ls2 = map(placed, FILES)
    return pcogalign_splits(train, ls1, ls2, image_root, seed)


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
        """The examples of a split.

        Raises:
            DataError: no such split, or a file or row that cannot be used.
        """
        found = split_of(read_pcogalign(Path(self.folder), Path(self.images), self.seed), split, self.folder)
        require_unique(found)
        return found

    def content(self) -> str:
        """SHA-256 of the three files; pictures count by their paths."""
        return hash_files([Path(self.folder) / f"{name}.json" for name in FILES])
