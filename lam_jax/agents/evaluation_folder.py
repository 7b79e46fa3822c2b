"""The folder of an evaluation: what it belongs to, answers and verdicts of each agent and set of rows, the result."""

import contextlib
import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from lam_jax.agents.evaluated import RowSet, Subject, folder_name
from lam_jax.errors import LamJaxError, OtherConfigurationError, RunFolderBusyError
from lam_jax.evaluation.figures import AnswerText
from lam_jax.parallel.multihost import all_agree, is_first
from lam_jax.runs.jsonl import read_lines
from lam_jax.runs.lock import HeldError, Lock, acquire
from lam_jax.values import differences

RESULT, SETTINGS = "evaluation.json", "settings.json"
Record = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class SetFolder:
    """What is kept of one agent on one set of rows.

    Attributes:
        root: folder of the evaluation.
        path: the folder.
    """

    root: Path
    path: Path

    def answers(self, kind: str) -> Path:
        """The file of one kind of answers."""
        return self.path / f"{kind}.jsonl"

    @property
    def verdicts(self) -> Path:
        """The file of verdicts."""
        return self.path / "verdicts.jsonl"

    def read_answers(self, kind: str) -> list[list[AnswerText]]:
        """The answers to each row, in order."""
        return [
            [AnswerText(answer["text"], answer["length"], answer["finished"]) for answer in line["answers"]]
            for line in read_lines(self.answers(kind))
        ]

    def row_hashes(self, kind: str) -> dict[str, str]:
        """The hash of each answered row, by id."""
        return {line["id"]: line["row"] for line in read_lines(self.answers(kind))}

    def cached(self, name: str, identity: Record, compute: Callable[[], Record]) -> Record:
        """Figures that take long, kept for the embedder that they were computed with."""
        known = self._known(name)
        for entry in known:
            if entry["of"] == identity:
                return entry["figures"]
        figures = compute()
        write_json(self.path / f"{name}.json", [*known, {"of": identity, "figures": figures}])
        return figures

    def has(self, name: str, identity: Record) -> bool:
        """Whether these figures are there."""
        return any(entry["of"] == identity for entry in self._known(name))

    def _known(self, name: str) -> list[Record]:
        try:
            return json.loads((self.path / f"{name}.json").read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return []


@dataclasses.dataclass(frozen=True)
class EvaluationFolder:
    """The folder of an evaluation."""

    path: Path

    def of(self, number: int, subject: Subject, part: RowSet) -> SetFolder:
        """Where the answers of an agent, the `number`-th, to a set of rows are kept."""
        return SetFolder(self.path, self.path / folder_name(number, subject.name) / part.key)

    @contextlib.contextmanager
    def claimed(self, settings: Record) -> Iterator[None]:
        """The folder, locked, for the evaluation that `settings` describe. Every process calls it.

        Raises:
            OtherConfigurationError: it holds another evaluation, or other files; names what differs.
            RunFolderBusyError: another process is at it.
        """
        lock, failure = None, None
        if is_first():
            try:
                lock = self._claim(json.loads(json.dumps(settings)))
            except (LamJaxError, OSError) as error:
                failure = error
        if not all_agree(failure is None):
            raise failure or LamJaxError(f"{self.path}: process 0 could not open it; its message says why.")
        try:
            yield
        finally:
            if lock is not None:
                lock.release()

    def _claim(self, settings: Record) -> Lock:
        file = self.path / SETTINGS
        if self.path.is_dir() and not file.exists() and any(p.name != ".lock" for p in self.path.iterdir()):
            raise OtherConfigurationError(
                f"{self.path} holds files and no {SETTINGS}, so it is no evaluation. Choose another folder, as --out."
            )
        if file.exists():
            try:
                known = json.loads(file.read_text(encoding="utf-8"))
            except ValueError as error:
                raise OtherConfigurationError(f"{file}: damaged ({error}). Remove {self.path}.") from error
            if lines := differences(known, settings):
                more = f"; and {len(lines) - 5} more" if len(lines) > 5 else ""
                raise OtherConfigurationError(
                    f"{self.path} holds another evaluation: {'; '.join(lines[:5])}{more}. Choose another folder, as "
                    "--out, or remove it."
                )
        self.path.mkdir(parents=True, exist_ok=True)
        try:
            lock = acquire(self.path / ".lock")
        except HeldError as error:
            raise RunFolderBusyError(
                f"{self.path} is in use by {error}. Wait, or choose another folder, as --out."
            ) from error
        if not file.exists():
            write_json(file, settings)
        return lock

    def write(self, result: Record) -> None:
        """Writes evaluation.json, whole or not at all."""
        write_json(self.path / RESULT, result)


def write_json(file: Path, value: Any) -> None:
    """A JSON file, whole or not at all."""
    new = file.with_name(f"{file.name}.new")
    new.write_text(json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
    new.replace(file)
