"""Sample answers of a run, to be read while it goes on: `samples.jsonl`, `samples/`, and one page, `samples.html`."""

import dataclasses
import hashlib
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lam_jax.data.schemas import Example, image_bytes
from lam_jax.runs.disk import is_no_space, no_space
from lam_jax.runs.jsonl import JsonLines, Record, read_lines
from lam_jax.runs.samples_page import Page

ENDINGS = ((b"\x89PNG\r\n\x1a\n", "png"), (b"\xff\xd8\xff", "jpg"), (b"RIFF", "webp"), (b"GIF8", "gif"))


@dataclasses.dataclass(frozen=True)
class Answer:
    """One sampled answer and what its reward said.

    Attributes:
        text: without special tokens.
        tokens: ids, the end-of-turn token included.
        actions: the code (or token) behind each token.
        logps: log-probability of each action when it was drawn.
        finished: it ended by itself; else it was cut at the greatest length.
        reward: training reward; None if the reward call failed.
        parts: named parts of the reward.
        error: why the call failed.
    """

    text: str
    tokens: Sequence[int]
    actions: Sequence[int]
    logps: Sequence[float]
    finished: bool
    reward: float | None
    parts: Mapping[str, float] = dataclasses.field(default_factory=dict)
    error: str | None = None


class SampleLog:
    """Appends to `folder/samples.jsonl` and writes `folder/samples.html` anew each time.

    With several processes only the first writes: give the others `enabled=False`.
    """

    def __init__(self, folder: Path, enabled: bool = True):
        self.folder, self.enabled = Path(folder), enabled
        self._lines = JsonLines(self.folder / "samples.jsonl", "sample answers") if enabled else None
        self._page = Page(self.folder)
        if enabled:
            self._page.reset(read_lines(self.folder / "samples.jsonl"))

    def begin(self, phase: str, step: int | None) -> None:
        """`phase` starts anew (None), or goes on after `step`: removes what an interrupted run wrote past it."""
        if self._lines is None:
            return
        if self._lines.keep(lambda r: r["phase"] != phase or (step is not None and r["step"] <= step)):
            self._page.reset(read_lines(self._lines.path))
            self._page.write()

    def write(
        self,
        phase: str,
        step: int,
        steps: int,
        rows: Sequence[tuple[Example, Sequence[Answer]]],
        coded: bool,
    ) -> None:
        """Appends a line for each prompt and writes the page.

        Args:
            phase, step, steps: of which step of how many the answers are.
            rows: prompts with their answers.
            coded: actions are codes, which are shown.

        Raises:
            DataError: a picture cannot be read any more.
            NoSpaceError: the disk is full.
        """
        if self._lines is None:
            return
        now = round(time.time(), 3)
        records: list[Record] = [
            {
                "phase": phase,
                "step": step,
                "steps": steps,
                "time": now,
                "id": example.id,
                "prompt": [dict(message) for message in example.prompt],
                "pictures": [self._picture(example, index) for index in range(len(example.images))],
                "reference": example.reference if example.has_reference else None,
                "answers": [_shown(answer, coded) for answer in answers],
            }
            for example, answers in rows
        ]
        self._lines.append(records)
        self._page.add(records)
        self._page.write()

    def close(self) -> None:
        """Closes the file."""
        if self._lines is not None:
            self._lines.close()

    def _picture(self, example: Example, index: int) -> str:
        """Path of a picture in the run folder, where it is written the first time; of the row and what it holds."""
        content = image_bytes(example.images[index], example.where)
        ending = next((end for start, end in ENDINGS if content.startswith(start)), "img")
        row = re.sub(r"[^A-Za-z0-9_-]", "_", example.id)[:40]
        name = f"samples/{row}_{hashlib.sha256(content).hexdigest()[:12]}.{ending}"
        path = self.folder / name
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            new = path.with_name(f"{path.name}.new")
            try:
                new.write_bytes(content)
                new.replace(path)
            except OSError as error:
                new.unlink(missing_ok=True)
                if is_no_space(error):
                    raise no_space(path, str(error)) from error
                raise
        return name


def _shown(answer: Answer, coded: bool) -> dict[str, Any]:
    return {
        "text": answer.text,
        "codes": list(answer.actions) if coded else None,
        "logp": round(sum(answer.logps), 4),
        "length": len(answer.tokens),
        "finished": answer.finished,
        "reward": answer.reward,
        "parts": dict(answer.parts),
        "failed": answer.error is not None,
        "error": answer.error,
    }
