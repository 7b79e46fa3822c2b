"""Where metrics go besides metrics.jsonl, which stays the record of a run: TensorBoard, Weights & Biases, MLflow.

A sink is asked for by name; what it needs is imported then. One that fails later is logged once and left out.
"""

import importlib
import json
import logging
import os
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from lam_jax.errors import LamJaxError

logger = logging.getLogger("lam_jax")
PROJECT = "lam_jax"  # of wandb, experiment of MLflow
BATCH = 100  # parameters that MLflow takes at a time


class SinkError(LamJaxError):
    """A sink that was asked for cannot be opened: its package is missing, or its settings are wrong."""

    exit_code = 2


@runtime_checkable
class Sink(Protocol):
    """Takes the scalars that metrics.jsonl takes, in the same order."""

    def begin(self, phase: str, step: int | None) -> None:
        """`phase` starts anew (None), or goes on after `step`: what was logged past that is void."""
        ...

    def write(self, phase: str, step: int, scalars: Mapping[str, float], time: float) -> None:
        """Finite values by name; `time` in seconds since 1970."""
        ...

    def close(self) -> None:
        """Nothing comes after this."""
        ...


class TensorBoardSink:
    """`folder/tensorboard/PHASE`.

    Its files cannot be cut: those of a phase that starts anew are deleted, and those of one that resumes in the middle
    get a marker that tells TensorBoard to hide the later steps.
    """

    def __init__(self, folder: Path):
        self.folder = Path(folder) / "tensorboard"
        self._boards: dict[str, Any] = {}

    def begin(self, phase: str, step: int | None) -> None:
        """See `Sink`."""
        if phase in self._boards:
            self._boards.pop(phase).close()
        if step is None and (self.folder / phase).exists():
            shutil.rmtree(self.folder / phase)
        self._open(phase, None if step is None else step + 1)

    def write(self, phase: str, step: int, scalars: Mapping[str, float], time: float) -> None:
        """See `Sink`."""
        if phase not in self._boards:
            self._open(phase)
        for name, value in scalars.items():
            self._boards[phase].add_scalar(name, value, step, walltime=time)

    def close(self) -> None:
        """See `Sink`."""
        for board in self._boards.values():
            board.close()
        self._boards = {}

    def _open(self, phase: str, purge_step: int | None = None) -> None:
        from tensorboardX import SummaryWriter  # here, so that training without a run folder does without it

        self._boards[phase] = SummaryWriter(str(self.folder / phase), purge_step=purge_step, flush_secs=10)


class WandbSink:
    """One run of Weights & Biases for a run folder; a metric is PHASE/NAME over PHASE/step.

    Where it logs to is wandb's own business: WANDB_PROJECT (else lam_jax), WANDB_MODE and what `wandb login` left.
    Logged steps cannot be taken back: those that a killed run repeats are there twice.

    Args:
        folder: of the run; wandb's files go to `folder/wandb`.
        config: JSON values that the run is shown with.
    """

    def __init__(self, folder: Path, config: Any):
        wandb = _needs("wandb")
        # Arguments would win over wandb's own variables.
        named = {"project": PROJECT, "name": folder.name, "id": _known_run(folder, "wandb")}
        free = {key: value for key, value in named.items() if value and not os.environ.get(f"WANDB_{key.upper()}")}
        self._run = wandb.init(**free, dir=str(folder), config=config, resume="allow")
        _remember_run(folder, "wandb", self._run.id)

    def begin(self, phase: str, step: int | None) -> None:
        """See `Sink`."""
        self._run.define_metric(f"{phase}/step", hidden=True)
        self._run.define_metric(f"{phase}/*", step_metric=f"{phase}/step")

    def write(self, phase: str, step: int, scalars: Mapping[str, float], time: float) -> None:
        """See `Sink`."""
        self._run.log({f"{phase}/step": step} | {f"{phase}/{name}": value for name, value in scalars.items()})

    def close(self) -> None:
        """See `Sink`."""
        self._run.finish()


class MLflowSink:
    """One run of MLflow for a run folder; a metric is PHASE/NAME.

    Where it logs to is MLflow's own business: MLFLOW_TRACKING_URI and MLFLOW_EXPERIMENT_NAME (else lam_jax). Logged
    steps cannot be taken back: those that a killed run repeats are there twice.

    Args:
        folder: of the run.
        config: JSON values; the plain ones among them become parameters.
    """

    def __init__(self, folder: Path, config: Any):
        mlflow = _needs("mlflow")
        self._client, self._metric = mlflow.MlflowClient(), mlflow.entities.Metric
        known = _known_run(folder, "mlflow")
        if known:
            self._client.update_run(known, status="RUNNING")
            self._id = known
            return
        experiment = mlflow.set_experiment(os.environ.get("MLFLOW_EXPERIMENT_NAME") or PROJECT)
        self._id = self._client.create_run(experiment.experiment_id, run_name=folder.name).info.run_id
        params = [mlflow.entities.Param(name, value) for name, value in _parameters(config).items()]
        for start in range(0, len(params), BATCH):
            self._client.log_batch(self._id, params=params[start : start + BATCH])
        _remember_run(folder, "mlflow", self._id)

    def begin(self, phase: str, step: int | None) -> None:
        """See `Sink`."""

    def write(self, phase: str, step: int, scalars: Mapping[str, float], time: float) -> None:
        """See `Sink`."""
        moment = round(1000 * time)
        metrics = [self._metric(_mlflow_name(f"{phase}/{n}"), v, moment, step) for n, v in scalars.items()]
        self._client.log_batch(self._id, metrics=metrics)

    def close(self) -> None:
        """See `Sink`."""
        self._client.set_terminated(self._id)


class Guarded:
    """A sink whose failures are logged once and then end its part in the run, not the run."""

    def __init__(self, name: str, sink: Sink):
        self.name, self.sink = name, sink
        self._failed = False

    def begin(self, phase: str, step: int | None) -> None:
        """See `Sink`."""
        self._try(lambda: self.sink.begin(phase, step))

    def write(self, phase: str, step: int, scalars: Mapping[str, float], time: float) -> None:
        """See `Sink`."""
        self._try(lambda: self.sink.write(phase, step, scalars, time))

    def close(self) -> None:
        """See `Sink`."""
        self._try(self.sink.close)

    def _try(self, call: Callable[[], None]) -> None:
        if self._failed:
            return
        try:
            call()
        except Exception as error:
            self._failed = True
            logger.warning(
                "%s takes no further metrics of this run (%s: %s); metrics.jsonl has them all.",
                self.name,
                type(error).__name__,
                error,
            )


def open_sinks(names: tuple[str, ...], folder: Path, config: Any) -> list[Sink]:
    """The sinks of a run folder.

    Args:
        names: some of `lam_jax.runs.watching.SINKS`.
        folder: of the run.
        config: JSON values that the run is shown with.

    Raises:
        SinkError: a package is missing, or a sink cannot be opened.
    """
    makers: Mapping[str, Callable[[], Sink]] = {
        "tensorboard": lambda: TensorBoardSink(folder),
        "wandb": lambda: WandbSink(folder, config),
        "mlflow": lambda: MLflowSink(folder, config),
    }
    opened: list[Sink] = []
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        try:
            opened.append(Guarded(name, makers[name]()))
        except Exception as error:
            for sink in opened:
                sink.close()
            if isinstance(error, SinkError):
                raise
            file = _run_file(folder, name)
            anew = f", delete {file} to log to a new run of it" if file.exists() else ""
            raise SinkError(
                f"--log {name}: it cannot be opened ({type(error).__name__}: {error}). Correct its settings{anew}, or "
                "run the same command without it."
            ) from error
    return opened


def _needs(package: str) -> Any:
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise SinkError(
            f"--log {package}: the package {package} is missing ({error}). Install it with "
            f"pip install 'lam_jax[{package}]', or run the same command without it."
        ) from error


def _run_file(folder: Path, sink: str) -> Path:
    return folder / f"{sink}_run.json"


def _known_run(folder: Path, sink: str) -> str | None:
    """What the sink called this run when it began."""
    file = _run_file(folder, sink)
    return json.loads(file.read_text(encoding="utf-8"))["id"] if file.exists() else None


def _remember_run(folder: Path, sink: str, name: str) -> None:
    file = _run_file(folder, sink)
    new = file.with_suffix(".json.new")
    new.write_text(json.dumps({"id": name}) + "\n", encoding="utf-8")
    new.replace(file)


def _parameters(config: Any, prefix: str = "") -> dict[str, str]:
    """The plain values of nested JSON values by dotted path, as far as MLflow takes them."""
    if isinstance(config, Mapping):
        items = [(f"{prefix}.{key}" if prefix else str(key), value) for key, value in config.items()]
        return {name: text for key, value in items for name, text in _parameters(value, key).items()}
    if isinstance(config, list | tuple) and any(isinstance(value, Mapping | list | tuple) for value in config):
        return _parameters(dict(enumerate(config)), prefix)
    return {_mlflow_name(prefix)[:250]: str(config)[:500]} if prefix else {}


def _mlflow_name(name: str) -> str:
    """A name with the characters that MLflow allows."""
    return re.sub(r"[^\w\-. /]", "_", name, flags=re.ASCII)
