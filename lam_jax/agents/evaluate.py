"""`lam_jax.evaluate_agent`: agents answer rows, the answers are scored, and all of it becomes one result.

The folder of an evaluation: settings.json (what it belongs to), for each agent and set of rows answers.jsonl,
diversity.jsonl and verdicts.jsonl, written as they come, and at the end evaluation.json (docs/evaluation.md).
"""

import contextlib
import dataclasses
import functools
import hashlib
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax

import lam_jax
from lam_jax.agents.answer_file import answer_examples
from lam_jax.agents.evaluated import RowSet, Subject, named_apart, subjects_of
from lam_jax.agents.evaluation_folder import RESULT, EvaluationFolder, SetFolder, write_json
from lam_jax.agents.evaluation_rewards import (
    judge_models,
    require_scorable,
    reward_identity,
    reward_name,
    warn_of_judges,
)
from lam_jax.agents.load import load_folder
from lam_jax.agents.pairs import comparisons, pairs_of
from lam_jax.agents.run_folder import is_run_folder
from lam_jax.data.layouts import RowParser
from lam_jax.errors import BadSettingError, LamJaxError
from lam_jax.evaluation.figures import AnswerText, call_figures, diversity_figures, score_figures, text_figures
from lam_jax.evaluation.generate import Answered
from lam_jax.evaluation.protocol import EvaluationProtocol
from lam_jax.evaluation.verdict_file import failed_kinds, read_verdicts, score_rows
from lam_jax.hosts.start import start_process
from lam_jax.parallel.multihost import all_agree, is_first
from lam_jax.report.current import refresh_report
from lam_jax.rewards import judge_store
from lam_jax.rewards.embedding import embedder_identity, is_lexical, load_embedder
from lam_jax.rewards.functions import FunctionReward, ScoreFunction
from lam_jax.rewards.reward import Reward
from lam_jax.runs.progress import Progress
from lam_jax.values import encode

Record = dict[str, Any]
FORMAT, VERSION = "lam_jax evaluation", 1
SCORED, DIVERSITY = "answers", "diversity"  # the two kinds of answers, and of the draws behind them


def evaluate_agent(
    agents: str | Path | Sequence[str | Path],
    out: str | Path | None = None,
    *,
    rows: str | Path | None = None,
    image_root: str | Path | None = None,
    parser: RowParser | None = None,
    reward: Reward | ScoreFunction | None = None,
    protocol: EvaluationProtocol | None = None,
    task: str | None = None,
    space: str | None = None,
    embedder: str = "lexical",
    against: str | Path | None = None,
    confidence: float = 0.95,
    reference_writer: str | None = None,
    batch: int | None = None,
    mesh: tuple[int, int, int] = (1, 1, 1),
    retry_failed: bool = False,
    progress: Progress | None = None,
) -> Record:
    """Evaluates one agent, or two against each other; goes on where it was interrupted. Every process has to call it.

    Args:
        agents: a folder that `lam_jax.load` takes, or two. Of a run every agent of a task in an action space is
            evaluated, and latent is compared with token.
        out: folder of the evaluation; default: see `default_folder`.
        rows: file or folder of rows that is answered; default: the tests of the run's own tasks.
        image_root, parser: how `rows` are read: where relative paths of pictures start, and what makes an example of a
            row; default: the file's folder, and a `RowParser`.
        reward: what scores, a `Reward` or a function as of `FunctionReward`; default: what scores the run's tests, or
            nothing where there is none.
        protocol: what is drawn; default: as the paper.
        task, space: of a run, those of this task or action space only.
        embedder: of diversity, see `load_embedder`.
        against: folder of another evaluation that this one is compared with, on the rows that both have.
        confidence: of all intervals.
        reference_writer: model that wrote the reference answers: a warning is given where it is the judge too.
        batch: rows that are answered at a time; default: the agent's own.
        mesh: data, fsdp and tensor sizes of the devices.
        retry_failed: calls of the reward that failed in an earlier session are made again.
        progress: where progress is shown.

    Returns:
        The content of evaluation.json, on the first process; nothing on the others.

    Raises:
        AgentError: no such agent, or nothing to answer.
        BadSettingError: an argument that cannot be used.
        DataError: rows that cannot be used.
        OtherConfigurationError: `out` holds the evaluation of other agents or rows, or with another protocol or reward.
        RewardRefusesError: a reward whose calls all fail.
        EmbedderError: no such embedder.
    """
    start_process()
    progress = progress or Progress(enabled=is_first())
    protocol = protocol or EvaluationProtocol()
    paths = [Path(agents)] if isinstance(agents, str | Path) else [Path(path) for path in agents]
    if not 1 <= len(paths) <= 2:
        raise BadSettingError(f"found {len(paths)} agents, expected one, or two that are compared.")
    if not 0 < confidence < 1:
        raise BadSettingError(f"--confidence: found {confidence}, expected a share between 0 and 1, such as 0.95.")
    if reward is not None and not hasattr(reward, "__dataclass_fields__"):
        reward = FunctionReward(reward)  # pyright: ignore[reportArgumentType]
    rows = None if rows is None else Path(rows)
    other = None if against is None else Path(against)
    reading = None if image_root is None else Path(image_root), parser
    groups = [subjects_of(path, task, space, rows, reward, protocol.prompts, *reading) for path in paths]  # pyright: ignore[reportArgumentType]
    subjects = named_apart([subject for group in groups for subject in group])
    for part in {id(part.examples): part for _, part in _parts(subjects)}.values():
        if part.reward is not None:
            require_scorable(part.reward, part.examples)
    identity = embedder_identity(embedder) if protocol.diversity_samples else None
    folder = EvaluationFolder(Path(out) if out is not None else default_folder(paths, rows))
    with folder.claimed(_settings(protocol, subjects)), _judged(folder.path):
        if is_first():
            warn_of_judges([(subject.trained_by, part.reward) for subject, part in _parts(subjects)], reference_writer)
        numbers = {id(subject): number for number, subject in enumerate(subjects, start=1)}
        targets = [folder.of(numbers[id(subject)], subject, part) for subject, part in _parts(subjects)]

        split = [len(group) for group in groups]

        def check() -> None:  # what would be refused when all answers are paid for
            pairs_of(folder, [(_begun(*each), t) for each, t in zip(_parts(subjects), targets)], split, other)
            if identity is not None and not all(target.has(DIVERSITY, identity) for target in targets):
                load_embedder(embedder)

        _on_first(check, folder)
        _say_cost(targets, subjects, protocol.samples, retry_failed, progress)
        for number, subject in enumerate(subjects, start=1):
            _answer(folder, number, subject, protocol, batch, mesh, progress)

        def measure() -> Record:
            measured = [
                _measure(target, subject, part, protocol, embedder, identity, (confidence, retry_failed, progress))
                for target, (subject, part) in zip(targets, _parts(subjects), strict=True)
            ]
            result = _result(protocol, confidence, embedder, identity, measured)
            result["comparisons"] = comparisons(folder, measured, split, other, confidence, protocol.seed, progress.say)
            folder.write(result)
            _show_in_runs(folder, subjects, result, progress)
            return result

        return _on_first(measure, folder) or {}


@contextlib.contextmanager
def _judged(folder: Path) -> Iterator[None]:
    """Judges keep their replies and log their calls in the folder, where they can."""
    with judge_store.opened(folder, jax.process_index()):
        yield


def _on_first(work: Callable[[], Record | None], folder: EvaluationFolder) -> Record | None:
    """Does on the first process what only it does; every process ends if it fails."""
    found, failure = None, None
    if is_first():
        try:
            found = work()
        except (Exception, KeyboardInterrupt) as error:
            failure = error
    if not all_agree(failure is None):
        raise failure or LamJaxError(f"{folder.path}: process 0 stopped; its message says why.")
    return found


def default_folder(paths: Sequence[Path], rows: Path | None) -> Path:
    """Where an evaluation goes: into the folder of the run, `evaluations/NAME`, else into `evaluations` here.

    NAME says what is answered: "tests", or the file of rows; and, where two agents are compared, the other one.
    """
    name = "tests" if rows is None else rows.stem
    if len(paths) > 1:
        name += f"_against_{paths[1].resolve().name}"
    if is_run_folder(paths[0]):
        return paths[0] / "evaluations" / name
    return Path("evaluations") / f"{paths[0].resolve().name}_{name}"


def _settings(protocol: EvaluationProtocol, subjects: Sequence[Subject]) -> Record:
    """What an evaluation belongs to. What is computed from answers and verdicts may be asked for anew."""
    return {
        "protocol": encode(protocol, "protocol"),
        "agents": [
            {
                "name": subject.name,
                "content": subject.content,
                "settings": encode(dataclasses.replace(subject.folder.settings, batch=1), "settings"),
                "sets": {part.key: part.identity() for part in subject.sets},
            }
            for subject in subjects
        ],
    }


def _answer(
    folder: EvaluationFolder,
    number: int,
    subject: Subject,
    protocol: EvaluationProtocol,
    batch: int | None,
    mesh: tuple[int, int, int],
    progress: Progress,
) -> None:
    """Writes what is missing of the agent's answers."""
    load = functools.cache(lambda: load_folder(subject.folder, mesh))
    coded = subject.folder.settings.action_space.coded
    kinds = {SCORED: (protocol.samples, protocol.sampling(coded))}
    if protocol.diversity_samples:
        kinds[DIVERSITY] = protocol.diversity_samples, protocol.diversity_sampling(coded)
    length = protocol.length or subject.folder.settings.answer_length
    for part in subject.sets:
        target = folder.of(number, subject, part)
        rows = min(batch or subject.folder.settings.batch, len(part.examples))
        hashes = dict(zip((example.id for example in part.examples), part.hashes, strict=True))
        for kind, (samples, sampling) in kinds.items():
            key = jax.random.fold_in(jax.random.key(protocol.seed), zlib.crc32(f"{kind}/{part.key}".encode()))
            options = {"samples": samples, "sampling": sampling, "length": length, "seed": key}
            owner = {
                "agent": subject.content,
                "set": part.identity()["rows"],
                "request": {"samples": samples, "sampling": encode(sampling, "sampling"), "length": length}
                | {"seed": protocol.seed, "kind": kind},
            }
            name = f"{subject.name}, {part.key}: {'answers' if kind == SCORED else 'answers for diversity'}"
            line = functools.partial(_line, hashes=hashes)
            file = target.answers(kind)
            answer_examples(load, part.examples, file, owner, options, line, batch=rows, progress=progress, name=name)


def _line(answered: Answered, hashes: dict[str, str]) -> Record:
    answers = [{"text": a.text, "finished": a.finished, "length": len(a.tokens)} for a in answered.answers]
    return {"id": answered.example.id, "row": hashes[answered.example.id], "answers": answers}


def _begun(subject: Subject, part: RowSet) -> Record:
    """What of an entry is known before anything is answered."""
    settings = subject.folder.settings
    return {
        "agent": subject.name,
        "task": settings.task,
        "space": settings.space,
        "phase": settings.phase,
        "set": part.key,
        "title": part.title,
        "prompts": len(part.examples),
        "reward": reward_name(part.reward),
        "reward_identity": reward_identity(part.reward),
    }


def _measure(
    target: SetFolder,
    subject: Subject,
    part: RowSet,
    protocol: EvaluationProtocol,
    embedder: str,
    identity: Record | None,
    options: tuple[float, bool, Progress],
) -> tuple[Record, SetFolder]:
    """The entry of an agent on a set of rows."""
    confidence, retry_failed, progress = options
    answers = target.read_answers(SCORED)
    entry = _begun(subject, part) | {
        "samples": protocol.samples,
        "score": None,
        "dimensions": {},
        "calls": None,
        "texts": text_figures(answers),
        "diversity": None,
        "lexical_diversity": None,
        "diversity_texts": None,
        "folder": target.path.relative_to(target.root).as_posix(),
    }
    if part.reward is not None:
        scored = _score(
            target, part, part.reward, answers, retry_failed, progress, f"{subject.name}, {part.key}: scores"
        )
        entry["score"], entry["dimensions"] = score_figures(scored, confidence, protocol.seed)
        entry["calls"] = call_figures(scored, failed_kinds(target.verdicts))
    if identity is not None:
        drawn = target.read_answers(DIVERSITY)
        figures = target.cached(DIVERSITY, identity, lambda: diversity_figures(drawn, load_embedder(embedder)))
        entry["lexical_diversity" if is_lexical(embedder) else "diversity"] = figures
        entry["diversity_texts"] = text_figures(drawn)
    return entry, target


def _score(
    target: SetFolder,
    part: RowSet,
    reward: Reward,
    answers: Sequence[Sequence[AnswerText]],
    retry_failed: bool,
    progress: Progress,
    name: str,
) -> list[Any]:
    texts = [[answer.text for answer in group] for group in answers]
    with progress.bar(name, len(texts)) as bar:
        return score_rows(target.verdicts, part.examples, texts, reward, retry_failed, bar.update)


def _result(
    protocol: EvaluationProtocol,
    confidence: float,
    embedder: str,
    identity: Record | None,
    measured: Sequence[tuple[Record, SetFolder]],
) -> Record:
    shown = "lexical" if is_lexical(embedder) else Path(embedder).name
    return {
        "format": FORMAT,
        "version": VERSION,
        "lam_jax": lam_jax.__version__,
        "protocol": {field.name: getattr(protocol, field.name) for field in dataclasses.fields(protocol)},
        "confidence": confidence,
        "embedder": None if identity is None else {"name": shown, "identity": identity},
        "scores": [entry for entry, _ in measured],
    }


def _show_in_runs(folder: EvaluationFolder, subjects: Sequence[Subject], result: Record, progress: Progress) -> None:
    """The result where the reports of the evaluated runs look for it, and these reports written anew."""
    for run in dict.fromkeys(subject.run for subject in subjects if subject.run is not None):
        try:
            own = run / "evaluations"
            if folder.path.resolve().parent != own.resolve():
                mark = hashlib.sha256(str(folder.path.resolve()).encode()).hexdigest()[:8]
                target = own / f"{folder.path.resolve().name[:80]}_{mark}"
                target.mkdir(parents=True, exist_ok=True)
                write_json(target / RESULT, result)
            if (run / "results.json").exists():
                progress.say(f"report: {refresh_report(run)}")
        except OSError as error:
            progress.say(f"{run}: its report could not be written anew ({error}); the result is in {folder.path}.")


def _parts(subjects: Sequence[Subject]) -> list[tuple[Subject, RowSet]]:
    return [(subject, part) for subject in subjects for part in subject.sets]


def _say_cost(
    targets: Sequence[SetFolder], subjects: Sequence[Subject], samples: int, retry_failed: bool, progress: Progress
) -> None:
    """Of each judge how many answers it will be asked about."""
    asked: dict[str, int] = {}
    for target, (_, part) in zip(targets, _parts(subjects), strict=True) if is_first() else ():
        known = sum(item.verdict.ok or not retry_failed for item in read_verdicts(target.verdicts))
        for model in judge_models(part.reward):
            asked[model] = asked.get(model, 0) + len(part.examples) * samples - known
    for model, count in asked.items():
        if count > 0:
            progress.say(
                f"judge {model}: {count:,} answers to score, a call each and more where one has to be repeated."
            )
