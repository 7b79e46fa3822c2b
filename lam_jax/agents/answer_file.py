"""A file of rows answered into a JSON Lines file, one line a row, which goes on where it was interrupted.

Beside the output lies OUTPUT.settings.json: which agent, rows and settings it belongs to.
"""

import dataclasses
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import lam_jax
from lam_jax.agents.load import load_folder
from lam_jax.agents.loaded import LoadedAgent
from lam_jax.agents.settings import AgentError, AgentFolder
from lam_jax.data.files import hash_rows, read_rows
from lam_jax.data.layouts import RowParser
from lam_jax.data.readers import read_examples
from lam_jax.data.schemas import DataError, Example, Where
from lam_jax.data.sources import home_of, require_unique
from lam_jax.errors import LamJaxError, OtherConfigurationError, RunFolderBusyError
from lam_jax.evaluation.generate import Answer, Answered
from lam_jax.formats.atomic import beside, named_after
from lam_jax.parallel.multihost import all_agree, from_first, is_first
from lam_jax.rollout.sampling import SamplingConfig
from lam_jax.runs.lock import HeldError, Lock, acquire
from lam_jax.runs.progress import Progress
from lam_jax.values import differences, encode


@dataclasses.dataclass(frozen=True)
class Request:
    """What is asked of an agent for every row; it belongs to the output.

    Attributes:
        samples: answers to each row.
        sampling: how actions are drawn.
        length: most tokens of an answer.
        seed: of the draws.
        codes, logps: whether each answer's codes and log-probabilities are written.
    """

    samples: int
    sampling: SamplingConfig
    length: int
    seed: int = 0
    codes: bool = False
    logps: bool = False


def read_prompts(file: Path, image_root: Path | None = None, parser: RowParser | None = None) -> list[Example]:
    """The rows of a file or folder of `lam_jax.data.files`; a reference answer is optional, ids must differ.

    Args:
        file: which.
        image_root: folder that relative paths of pictures start from; default: the file's own.
        parser: what makes an example of a row; default: one of any layout.

    Raises:
        DataError: the file or a row cannot be used.
    """
    parser, root = parser or RowParser(), image_root or home_of(file)

    def parse(row: Any, where: Where) -> list[Example]:
        return parser(row, where, root)

    examples = read_examples(read_rows(file), str(file), parse)
    if not examples:
        raise DataError(Where(str(file)), None, "no rows", "one row or more", "Add rows.")
    require_unique(examples)
    return examples


def answer_file(
    folder: AgentFolder,
    rows: Path,
    output: Path,
    request: Request,
    *,
    batch: int | None = None,
    mesh: tuple[int, int, int] = (1, 1, 1),
    progress: Progress | None = None,
    image_root: Path | None = None,
    parser: RowParser | None = None,
) -> int:
    """Answers all rows that `output` does not hold yet; returns how many that were. Every process has to call it.

    Args:
        folder: the agent, see `lam_jax.agents.load.find`.
        rows: file or folder of rows, see `read_prompts`.
        output: gets a line a row, in order: `{"id", "answers": [{"text", "finished", "codes", "logps"}, ..]}`.
        request: what is asked.
        batch: rows that are answered at a time; default: the agent's own. It may change when the command goes on.
        mesh: data, fsdp and tensor sizes of the devices.
        progress: where progress is shown.
        image_root, parser: as in `read_prompts`.

    Raises:
        AgentError: codes are asked of an agent that has none.
        DataError: rows that cannot be used.
        OtherConfigurationError: `output` belongs to another agent, other rows or another request.
        RunFolderBusyError: another process writes to `output`.
    """
    if request.codes and not folder.settings.action_space.coded:
        raise AgentError(f"{folder.path} acts in the token space and has no codes: leave --codes out.")
    examples = read_prompts(rows, image_root, parser)
    owner = {
        "lam_jax": lam_jax.__version__,
        "agent": folder.content() | {"settings": encode(dataclasses.replace(folder.settings, batch=1), "settings")},
        "rows": {"sha256": hash_rows(rows), "count": len(examples)},
        "request": encode(request, "request"),
    }
    options = {"samples": request.samples, "sampling": request.sampling, "length": request.length, "seed": request.seed}
    return answer_examples(
        lambda: load_folder(folder, mesh),
        examples,
        output,
        owner,
        options,
        lambda answered: line(answered, request),
        batch=batch or folder.settings.batch,
        progress=progress,
    )


def answer_examples(
    load: Callable[[], LoadedAgent],
    examples: Sequence[Example],
    output: Path,
    owner: dict[str, Any],
    options: dict[str, Any],
    line: Callable[[Answered], dict[str, Any]],
    *,
    batch: int,
    progress: Progress | None = None,
    name: str = "answers",
) -> int:
    """As `answer_file`, of examples and an agent that is loaded only if something is missing.

    Args:
        load: gives the agent.
        examples: the rows.
        output: gets a line a row, in order.
        owner: what the output belongs to, JSON values.
        options: of `LoadedAgent.batches`.
        line: an answered row as JSON values, its "id" among them.
        batch: rows that are answered at a time.
        progress: where progress is shown, as `name`.
    """
    progress = progress or Progress(enabled=is_first())
    file: IO[bytes] | None = None
    lock: Lock | None = None
    done, failure = 0, None
    if is_first():
        try:
            file, lock, done = _claim(output, owner, examples)
        except (LamJaxError, OSError) as error:
            failure = error
    if not all_agree(failure is None):
        raise failure or LamJaxError(f"{output}: process 0 could not open it; its message says why.")
    done = from_first(done)
    try:
        if done == len(examples):
            progress.say(f"{output} has all {done} answers already.")
            return 0
        agent = load()
        if done:
            progress.say(f"{output} goes on after row {done} of {len(examples)}.")
        first = done - done % batch  # whole batches, so that numbers are those of an uninterrupted run
        found = agent.batches(examples[first:], batch=batch, first=first, **options)
        with progress.bar(name, len(examples), done) as bar:
            for number, answered in _after(found, first, done):
                if file is not None:
                    file.write((json.dumps(line(answered), ensure_ascii=False) + "\n").encode())
                    if number % batch == 0 or number == len(examples):
                        file.flush()
                        os.fsync(file.fileno())
                bar.update(number)
        return len(examples) - done
    finally:
        if file is not None:
            file.close()
        if lock is not None:
            lock.release()


def _after(batches: Iterator[list[Answered]], first: int, done: int) -> Iterator[tuple[int, Answered]]:
    """The rows after row number `done` of batches that begin at `first`, each with its number, from 1."""
    number = first
    for batch in batches:
        for answered in batch:
            number += 1
            if number > done:
                yield number, answered


def line(answered: Answered, request: Request) -> dict[str, Any]:
    """A line of the output, as JSON values."""

    def values(answer: Answer) -> dict[str, Any]:
        found: dict[str, Any] = {"text": answer.text, "finished": answer.finished}
        if request.codes:
            found["codes"] = answer.actions
        if request.logps:
            found["logps"] = answer.logps
        return found

    return {"id": answered.example.id, "answers": [values(answer) for answer in answered.answers]}


_SETTINGS_ENDING = ".settings.json"


def settings_file(output: Path) -> Path:
    """The file beside an output that says what it belongs to; of a very long name a hash, so that it can be there."""
    return named_after(output, _SETTINGS_ENDING)


def _claim(output: Path, owner: dict[str, Any], examples: Sequence[Example]) -> tuple[IO[bytes], Lock, int]:
    """The output, opened at the end of its last whole line, its lock, and the number of its lines."""
    beside_it = settings_file(output)
    owner = json.loads(json.dumps(owner))
    if output.exists() and output.stat().st_size and not beside_it.exists():
        raise OtherConfigurationError(
            f"{output} is there without {beside_it.name}, so what it belongs to is not known. Choose another output or "
            "remove the file."
        )
    if beside_it.exists():
        _require_owner(output, beside_it, owner)
    output.parent.mkdir(parents=True, exist_ok=True)
    try:
        lock = acquire(output)
    except HeldError as error:
        raise RunFolderBusyError(f"{output} is being written by {error}. Wait, or choose another.") from error
    try:
        if not beside_it.exists():
            new = beside(output, "settings.new")
            new.write_text(json.dumps(owner, indent=1) + "\n", encoding="utf-8")
            new.replace(beside_it)
        length, ids = _whole_lines(output)
        if ids != [example.id for example in examples[: len(ids)]]:
            raise OtherConfigurationError(f"{output}: its lines are not the answers to these rows. Remove it.")
        file = output.open("ab")
    except BaseException:
        lock.release()
        raise
    if length < output.stat().st_size:
        file.truncate(length)
    return file, lock, len(ids)


def _require_owner(output: Path, settings: Path, owner: dict[str, Any]) -> None:
    try:
        known = json.loads(settings.read_text(encoding="utf-8"))
    except ValueError as error:
        raise OtherConfigurationError(f"{settings}: damaged ({error}). Remove it and {output.name}.") from error
    if lines := differences(known, owner):
        more = f"; and {len(lines) - 5} more" if len(lines) > 5 else ""
        raise OtherConfigurationError(
            f"{output} holds the answers of another agent, to other rows or to another request: "
            f"{'; '.join(lines[:5])}{more}. Choose another output, or remove it and {settings.name}."
        )


def _whole_lines(output: Path) -> tuple[int, list[str]]:
    """Bytes of the lines that are whole, and their ids; only the last line can be cut."""
    whole, ids = 0, []
    with output.open("rb") as file:
        for text in file:
            if not text.endswith(b"\n"):
                break
            try:
                ids.append(json.loads(text)["id"])
            except (ValueError, KeyError, TypeError) as error:
                raise OtherConfigurationError(
                    f"{output}, line {len(ids) + 1}: damaged ({error!r}). Correct it, or remove the file."
                ) from error
            whole += len(text)
    return whole, ids
