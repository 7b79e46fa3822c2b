"""What a judge said, on disk: replies by the content of their requests, what was spent, and a log of every call.

    with judge_store.opened(folder):
        reward(examples, answers, samples)

A run opens its own folder. Replies lie in FOLDER/judge.sqlite, or in the file that $LAM_JAX_JUDGE_CACHE names, which
runs then share; every call is a line of FOLDER/judge.jsonl. Without a folder nothing is kept.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lam_jax.errors import RewardError
from lam_jax.rewards.endpoint import Usage

CACHE, LOG = "judge.sqlite", "judge.jsonl"
VARIABLE = "LAM_JAX_JUDGE_CACHE"
BUSY_S = 60.0
_TABLES = (
    "CREATE TABLE IF NOT EXISTS replies (key TEXT PRIMARY KEY, reply TEXT NOT NULL, model TEXT, time REAL)",
    "CREATE TABLE IF NOT EXISTS spent (judge TEXT PRIMARY KEY, calls INTEGER, prompt INTEGER, completion INTEGER)",
)
_open: "JudgeStore | None" = None


class JudgeStoreError(RewardError):
    """The file of replies cannot be used; the message names it and says what to do."""


@dataclasses.dataclass(frozen=True)
class Spent:
    """Calls and tokens."""

    calls: int = 0
    prompt: int = 0
    completion: int = 0

    @property
    def tokens(self) -> int:
        """Of prompts and replies."""
        return self.prompt + self.completion


class JudgeStore:
    """Replies, spending and log of a folder; safe for several threads and processes.

    Args:
        folder: of the log, and of the replies unless $LAM_JAX_JUDGE_CACHE names a file.
        process: number of this process; others than the first log to files of their own, and where the file of replies
            lies in the folder they keep theirs apart, since a folder that several machines share has no safe locks.
        shared: whether $LAM_JAX_JUDGE_CACHE counts.

    Raises:
        JudgeStoreError: the file of replies cannot be opened.
    """

    def __init__(self, folder: str | Path, process: int = 0, shared: bool = True):
        suffix = f".{process}" if process else ""
        self.folder = Path(folder)
        file = os.environ.get(VARIABLE) if shared else None
        self.path = Path(file).expanduser() if file else self.folder / f"{CACHE}{suffix}"
        self.log_path = self.folder / f"{LOG}{suffix}"
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._log: Any = None

    def close(self) -> None:
        """Closes the files."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
            if self._log is not None:
                self._log.close()
            self._connection = self._log = None

    def get(self, key: str) -> str | None:
        """The reply kept under a key; None also where what is kept is damaged, so that it is asked for again."""
        row = self._execute("SELECT reply FROM replies WHERE key = ?", (key,))
        try:
            reply = json.loads(row[0][0]) if row else None
        except (ValueError, TypeError):
            return None
        return reply if isinstance(reply, str) else None

    def put(self, key: str, reply: str, model: str) -> None:
        """Keeps a reply; it is on disk when this returns."""
        self._execute(
            "INSERT OR REPLACE INTO replies VALUES (?, ?, ?, ?)", (key, json.dumps(reply), model, time.time())
        )

    def spent(self, judge: str) -> Spent:
        """What was spent on a judge so far, by all runs of the file."""
        row = self._execute("SELECT calls, prompt, completion FROM spent WHERE judge = ?", (judge,))
        return Spent(*row[0]) if row else Spent()

    def spend(self, judge: str, calls: int, usage: Usage) -> None:
        """Adds calls and tokens."""
        self._execute(
            "INSERT INTO spent VALUES (?, ?, ?, ?) ON CONFLICT (judge) DO UPDATE SET calls = calls + excluded.calls, "
            "prompt = prompt + excluded.prompt, completion = completion + excluded.completion",
            (judge, calls, usage.prompt, usage.completion),
        )

    def take_call(self, judge: str, most: int) -> bool:
        """Counts a call if fewer than `most` were made; whether it did. Exact among processes of one file."""
        self.spend(judge, 0, Usage())
        return self._execute("UPDATE spent SET calls = calls + 1 WHERE judge = ? AND calls < ?", (judge, most)) == 1

    def log(self, record: Mapping[str, Any]) -> None:
        """Appends a line to the log."""
        line = (json.dumps(record, ensure_ascii=False) + "\n").encode(errors="backslashreplace")
        with self._lock:
            try:
                if self._log is None:
                    self.folder.mkdir(parents=True, exist_ok=True)
                    _end_last_line(self.log_path)
                    self._log = self.log_path.open("ab", buffering=0)
                self._log.write(line)
            except OSError as error:
                raise JudgeStoreError(
                    f"{self.log_path}: the judge's calls cannot be logged ({error}). Make room or give the right to "
                    "write there, and run the same command again."
                ) from error

    def _execute(self, statement: str, values: tuple[Any, ...]) -> Any:
        """Rows of a query; of a change the number of rows."""
        with self._lock:
            try:
                if self._connection is None:
                    self._connection = self._connect()
                cursor = self._connection.execute(statement, values)
                return cursor.fetchall() if statement.startswith("SELECT") else cursor.rowcount
            except (sqlite3.Error, OSError) as error:
                raise JudgeStoreError(
                    f"{self.path}: the judge's replies cannot be kept there ({error}). Make room or give the right to "
                    f"write, or name a file on a local disk in ${VARIABLE}; a damaged file may be deleted: its replies "
                    "are asked for again."
                ) from error

    def _connect(self) -> sqlite3.Connection:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(self.path, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
        # Each change is with the operating system when it is made: a killed process loses none. Where a file system has
        # no shared memory, sqlite stays with its other journal.
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")
        for table in _TABLES:
            connection.execute(table)
        return connection


@contextlib.contextmanager
def opened(folder: str | Path, process: int = 0) -> Iterator[JudgeStore]:
    """Judges called inside keep their replies in `folder` and log there."""
    global _open
    before, _open = _open, JudgeStore(folder, process)
    store = _open
    try:
        yield store
    finally:
        _open = before
        store.close()


def current() -> JudgeStore | None:
    """The store that is open."""
    return _open


def key_of(body: Mapping[str, Any]) -> str:
    """Of a request: model, messages and sampling settings."""
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _end_last_line(path: Path) -> None:
    """A line that a killed process left unfinished goes."""
    if not path.exists():
        return
    data = path.read_bytes()
    if data and not data.endswith(b"\n"):
        os.truncate(path, data.rfind(b"\n") + 1)
