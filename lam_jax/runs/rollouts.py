"""Every sample of every RL rollout as JSON lines, on demand: `rollouts/PHASE.jsonl`."""

from collections.abc import Sequence
from pathlib import Path

from lam_jax.data.schemas import Example
from lam_jax.runs.jsonl import JsonLines, Record
from lam_jax.runs.samples import Answer


class RolloutLog:
    """Appends to `folder/rollouts/PHASE.jsonl`.

    With several processes only the first writes: give the others `enabled=False`.
    """

    def __init__(self, folder: Path, enabled: bool = True):
        self.folder, self.enabled = Path(folder) / "rollouts", enabled
        self._files: dict[str, JsonLines] = {}

    def begin(self, phase: str, step: int | None) -> None:
        """`phase` starts anew (None), or goes on after `step`: removes what an interrupted run wrote past it."""
        if not self.enabled:
            return
        if step is None:
            self._file(phase).close()
            self._file(phase).path.unlink(missing_ok=True)
        else:
            self._file(phase).keep(lambda record: record["step"] <= step)

    def write(self, phase: str, step: int, attempt: int, rows: Sequence[tuple[Example, Sequence[Answer]]]) -> None:
        """Appends a line for each sample.

        Args:
            phase, step: of which step.
            attempt: 0, or the number of the refill that dynamic sampling drew these prompts for.
            rows: prompts with their answers.

        Raises:
            NoSpaceError: the disk is full.
        """
        if not self.enabled:
            return
        records: list[Record] = [
            {
                "step": step,
                "attempt": attempt,
                "id": example.id,
                "sample": number,
                "text": answer.text,
                "tokens": list(answer.tokens),
                "actions": list(answer.actions),
                "logps": list(answer.logps),
                "finished": answer.finished,
                "reward": answer.reward,
                "parts": dict(answer.parts),
                "error": answer.error,
            }
            for example, answers in rows
            for number, answer in enumerate(answers)
        ]
        self._file(phase).append(records)

    def close(self) -> None:
        """Closes the files."""
        for file in self._files.values():
            file.close()

    def _file(self, phase: str) -> JsonLines:
        if phase not in self._files:
            self._files[phase] = JsonLines(self.folder / f"{phase}.jsonl", "rollouts")
        return self._files[phase]
