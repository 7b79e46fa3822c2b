"""Golden answers of PCogAlignBench, written by a model behind an OpenAI-compatible endpoint where a row has none.

The benchmark's raw files have questions and no answers; those that the paper trained on were written by a larger model.
Answers are kept as they come in a file beside the output, so a build that was interrupted asks for none twice. A call
that fails leaves its row out: no answer is made up.
"""

import base64
import dataclasses
import json
import os
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from lam_jax.corpora.build import Built, Sampling, sources_as_values, whole_build
from lam_jax.corpora.kinds import build_pcogalign
from lam_jax.corpora.pictures import PictureError, picture_bytes
from lam_jax.data.readers import Drops
from lam_jax.data.schemas import DataError, Where
from lam_jax.data.splits import SEED, shuffled
from lam_jax.errors import BadSettingError, LamJaxError
from lam_jax.formats.atomic import named_after
from lam_jax.rewards.endpoint import Reply
from lam_jax.rewards.judge_client import call_again
from lam_jax.rewards.judge_config import JudgeConfig
from lam_jax.rewards.judge_store import key_of
from lam_jax.rewards.replies import Unreadable, without_thoughts
from lam_jax.tasks.pcogalign import FILES, Placed, has_golden_answer, placed_rows, system_message, usable_rows
from lam_jax.tasks.picture_files import picture_file

SETS = ("HCMAS", "HCSHR")
TRAINING_SHARE = 0.8
ANSWER = 1024  # tokens of an answer at most, where the endpoint's settings say no other number
MOST_FAILURES = 20  # calls in a row that fail before the build stops: an endpoint that refuses one refuses all


class GoldenError(LamJaxError):
    """The endpoint gives no answers: it refuses the key, the model or the address, or fails call after call."""


@dataclasses.dataclass(frozen=True)
class GoldenWriter:
    """Who writes golden answers.

    Attributes:
        endpoint: how the model is reached and asked; settings of how scores are read mean nothing.
        with_picture: the picture is sent too; else the row's description of it alone.
    """

    endpoint: JudgeConfig
    with_picture: bool = False

    def as_values(self) -> dict[str, Any]:
        """What answers depend on besides the rows, as JSON values."""
        request = self.endpoint.body([{"role": "user", "content": ""}])
        return {"request": {name: value for name, value in request.items() if name != "messages"}} | {
            "with_picture": self.with_picture
        }


def golden_messages(row: dict[str, Any], picture: bytes | None = None) -> list[dict[str, Any]]:
    """What the writer is asked: to answer the user's question as fits who asks it, where, and what would help."""
    info = row["eval_info"]
    request = (
        f"What the picture shows: {_plain(info['ImageDesc'])}\n"
        f"Where the user is: {_plain(info['location'])}\n"
        f"What would help this user: {_plain(info['EvalHelp'])}\n\n"
        f"The user's question: {row['query']}\n\n"
        "Answer the user directly, in a few sentences. Fit the answer to the user's role at this place, to what the "
        "user can do there with the body, and to how the user feels. Speak of the picture as of something that both of "
        "you see, and do not mention these notes."
    )
    content: Any = request
    if picture is not None:
        url = f"data:{_media_type(picture)};base64,{base64.b64encode(picture).decode()}"
        content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": request}]
    return [dict(system_message(row["individual_RoleSet"])), {"role": "user", "content": content}]


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _media_type(data: bytes) -> str:
    kinds = ((b"\x89PNG", "image/png"), (b"GIF8", "image/gif"), (b"RIFF", "image/webp"))
    return next((kind for start, kind in kinds if data.startswith(start)), "image/jpeg")


def read_answer(reply: Reply) -> str:
    """The answer in a reply, without what a thinking model thought before.

    Raises:
      Unreadable: the call failed, or the reply is cut off, empty, or was still thinking.
    """
    if reply.kind is not None:
        raise Unreadable(reply.kind, reply.reason)
    answer = without_thoughts(reply.text).strip()
    if not answer:
        raise Unreadable("empty", "the reply is empty")
    return answer


class Answers:
    """Answers that were paid for, in a file of JSON lines that is appended to as they come."""

    def __init__(self, path: Path):
        self.path = path
        self._known: dict[str, str] = {}
        self._lock = threading.Lock()
        if path.is_file():
            for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
                try:
                    value = json.loads(line)
                    self._known[value["key"]] = value["answer"]
                except (ValueError, KeyError, TypeError):
                    continue  # the last line of a process that was killed

    def get(self, key: str) -> str | None:
        """The answer to a request, if it is there."""
        return self._known.get(key)

    def add(self, key: str, answer: str) -> None:
        """Keeps an answer: on disk when this returns."""
        with self._lock:
            self._known[key] = answer
            new = not self.path.exists()
            with self.path.open("a", encoding="utf-8") as file:
                file.write(("" if new else "\n") + json.dumps({"key": key, "answer": answer}))
                file.flush()
                os.fsync(file.fileno())


def fill_golden(
    rows: Sequence[Placed], images: Path, writer: GoldenWriter | None, answers: Answers, drops: Drops
) -> list[Placed]:
    """The rows with a golden answer each: their own, or one that the writer gives now or gave before.

    Raises:
      GoldenError: the endpoint refuses every call.
      BadSettingError: rows lack answers and there is no writer.
    """
    missing = [placed for placed in rows if not has_golden_answer(placed[0])]
    made: dict[int, str] = {}
    if missing:
        if writer is None:
            row, where = missing[0]
            raise BadSettingError(
                f"{where}: found no golden_response in this and {len(missing) - 1} more rows, expected one each. Name "
                "the endpoint that writes them: --judge URL --judge-model NAME."
            )
        made = _ask_all(missing, images, writer, answers, drops)
    filled = []
    for row, where in rows:
        if has_golden_answer(row):
            filled.append((row, where))
        elif id(row) in made:
            filled.append(({**row, "golden_response": made[id(row)]}, where))
    return filled


def _ask_all(
    missing: Sequence[Placed], images: Path, writer: GoldenWriter, answers: Answers, drops: Drops
) -> dict[int, str]:
    config = writer.endpoint
    made: dict[int, str] = {}
    lock, failures = threading.Lock(), 0
    stopped = threading.Event()

    def ask(placed: Placed) -> None:
        nonlocal failures
        row, where = placed
        if stopped.is_set():
            return
        try:
            picture = picture_bytes(_picture(row, images)) if writer.with_picture else None
        except PictureError as error:
            with lock:
                return drops.add(error.reason, where, error.detail)
        messages = golden_messages(row, picture)
        body = config.body(messages)
        key = key_of(body)
        answer = answers.get(key)
        if answer is None:
            reply = call_again(config, body, stopped)
            if reply.refused:
                stopped.set()
                raise GoldenError(
                    f"{config.base_url} refuses the model {config.model!r}: {reply.reason}. Check the address, the "
                    f"model's name and the key in ${config.api_key_env}."
                )
            try:
                answer = read_answer(reply)
            except Unreadable as why:
                with lock:
                    failures += 1
                    drops.add("no answer from the model", where, f"{why.kind}: {why.reason}")
                    if failures >= MOST_FAILURES:
                        stopped.set()
                        raise GoldenError(
                            f"{config.base_url}: found {failures} failed calls in a row, the last one with "
                            f"{why.kind}: {why.reason}. Mend what it names, then run the same command again: answers "
                            f"that came are kept in {answers.path}."
                        ) from why
                return
            answers.add(key, answer)
        with lock:
            failures = 0
            made[id(row)] = answer

    with ThreadPoolExecutor(config.concurrency) as pool:
        calls = [pool.submit(ask, placed) for placed in missing]
        try:
            for call in calls:
                call.result()
        except BaseException:
            stopped.set()
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    return made


def _picture(row: dict[str, Any], images: Path) -> Path:
    found = picture_file(images, row["image"].get("file_path"))
    if isinstance(found, str):
        raise PictureError(found, str(row["image"].get("file_path")))
    return found


def read_sets(raw: Path, seed: int = SEED) -> dict[str, list[Placed]]:
    """Rows by the names of the three golden files, from whichever files a raw folder has.

    Of each set (HCMAS, HCSHR) `SET-golden-PART.json` or `SET-PART.json` are taken as they are, PART being train or
    test. A set in one file, `SET.json`, or with a train file alone is shuffled with `seed`; 80 % are for training, 20 %
    are the test.

    Raises:
      DataError: a set has no file, or a file cannot be read.
    """
    found: dict[str, list[Placed]] = {}
    for name in SETS:
        parts = {part: _file(raw, f"{name}-golden-{part}", f"{name}-{part}") for part in ("train", "test")}
        if parts["test"] is not None:
            read = {part: placed_rows(path) if path else [] for part, path in parts.items()}
        else:
            single = parts["train"] or _file(raw, name, f"{name}-golden")
            if single is None:
                names = f"{name}-train.json and {name}-test.json, or {name}.json"
                raise DataError(Where(str(raw)), None, f"no file of the set {name}", names, "Correct the raw folder.")
            rows = shuffled(placed_rows(single), seed)
            bound = int(TRAINING_SHARE * len(rows))
            read = {"train": rows[:bound], "test": rows[bound:]}
        found |= {f"{name}-golden-{part}": rows for part, rows in read.items()}
    return {name: found[name] for name in FILES}


def _file(raw: Path, *names: str) -> Path | None:
    return next((path for name in names if (path := raw / f"{name}.json").is_file()), None)


def build_pcogalign_golden(
    raw: Path, out: Path, sampling: Sampling, images: Path, writer: GoldenWriter | None = None
) -> Built:
    """Writes the benchmark's three files with golden answers, and records of their splits, into `out`.

    Raises:
      DataError: the raw folder's layout is another, a file is not JSON, or no row can be used.
      BadSettingError: `out` holds something else, or rows lack answers and there is no writer.
      GoldenError: the endpoint refuses every call.
    """
    if out.resolve() == raw.resolve():
        raise BadSettingError(f"--out {out}: found the raw folder itself, expected a folder of its own.")
    arguments = {
        "kind": "pcogalign",
        "sources": sources_as_values([raw / f for f in sorted(p.name for p in raw.glob("*.json"))]),
        "images": str(images.resolve()),
        "seed": sampling.seed,
        "pixels": sampling.pixels,
        "writer": None if writer is None else writer.as_values(),
    }

    def build(folder: Path) -> Built:
        drops = Drops()
        answers = Answers(named_after(out, ".answers.jsonl"))
        for name, rows in read_sets(raw, sampling.seed).items():
            usable = usable_rows(rows, images, drops, golden=False)
            filled = [row for row, _ in fill_golden(usable, images, writer, answers, drops)]
            (folder / f"{name}.json").write_text(json.dumps(filled, ensure_ascii=False, indent=1), encoding="utf-8")
        return build_pcogalign(folder, "pcogalign", arguments, images, sampling, drops)

    return whole_build(out, arguments, build)
