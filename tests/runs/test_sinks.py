"""Sinks: what they are given, by stand-ins for the packages; failures that do not stop a run."""

import json
import logging
import sys
from types import SimpleNamespace

import pytest

from lam_jax.runs.metrics import MetricsWriter, read_metrics
from lam_jax.runs.progress import Progress
from lam_jax.runs.run import Run
from lam_jax.runs.sinks import SinkError, open_sinks
from lam_jax.runs.watching import Watching

CONFIG = {"recipe": {"seed": 3, "rl": {"steps": 12}, "lengths": [1, 2], "tasks": [{"name": "help"}]}}


@pytest.fixture
def wandb(monkeypatch):
    """What wandb was told, as lists."""
    told = SimpleNamespace(inits=[], defined=[], logged=[], finished=0)

    class Run:
        def __init__(self, name):
            self.id = name

        def define_metric(self, name, **options):
            told.defined.append((name, options.get("step_metric")))

        def log(self, values):
            told.logged.append(values)

        def finish(self):
            told.finished += 1

    def init(**arguments):
        told.inits.append(arguments)
        return Run(arguments.get("id") or "made1")

    for name in ("WANDB_PROJECT", "WANDB_NAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init))
    return told


@pytest.fixture
def mlflow(monkeypatch):
    """What MLflow was told, as lists."""
    told = SimpleNamespace(experiments=[], runs=[], updated=[], metrics=[], params={}, ended=[])

    class Client:
        def create_run(self, experiment, run_name):
            told.runs.append((experiment, run_name))
            return SimpleNamespace(info=SimpleNamespace(run_id="made2"))

        def update_run(self, name, status):
            told.updated.append((name, status))

        def log_batch(self, name, metrics=(), params=()):
            assert name == "made2"
            assert len(params) <= 100
            told.metrics.extend((m.key, m.value, m.timestamp, m.step) for m in metrics)
            told.params.update({p.key: p.value for p in params})

        def set_terminated(self, name):
            told.ended.append(name)

    def set_experiment(name):
        told.experiments.append(name)
        return SimpleNamespace(experiment_id=f"id of {name}")

    entities = SimpleNamespace(
        Metric=lambda key, value, timestamp, step: SimpleNamespace(
            key=key, value=value, timestamp=timestamp, step=step
        ),
        Param=lambda key, value: SimpleNamespace(key=key, value=value),
    )
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME", raising=False)
    made = SimpleNamespace(MlflowClient=Client, set_experiment=set_experiment, entities=entities)
    monkeypatch.setitem(sys.modules, "mlflow", made)
    return told


def log(folder, sinks, step=1, begin=None):
    with MetricsWriter(folder, sinks=open_sinks(sinks, folder, CONFIG)) as writer:
        writer.begin("rl", begin)
        return writer.write("rl", step, {"loss": 0.5, "reward/Tone: \u00fc": 1.0, "bad": float("nan")})


def test_wandb_gets_each_phase_over_its_own_steps_and_one_run_a_folder(tmp_path, wandb, monkeypatch):
    log(tmp_path / "run", ("wandb",))
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    log(tmp_path / "run", ("wandb",), 2, 1)
    first, second = wandb.inits
    assert (first["project"], first["name"], first["resume"]) == ("lam_jax", "run", "allow")
    assert "id" not in first
    assert first["config"] == CONFIG
    assert second["id"] == "made1", "the same run, resumed"
    assert "project" not in second, "wandb's own variable counts"
    assert wandb.defined[:2] == [("rl/step", None), ("rl/*", "rl/step")]
    assert wandb.logged == [{"rl/step": n, "rl/loss": 0.5, "rl/reward/Tone: \u00fc": 1.0} for n in (1, 2)]
    assert wandb.finished == 2


def test_mlflow_gets_steps_times_and_parameters_and_one_run_a_folder(tmp_path, mlflow):
    record = log(tmp_path / "run", ("mlflow",))
    log(tmp_path / "run", ("mlflow",), 2, 1)
    assert mlflow.experiments == ["lam_jax"]
    assert mlflow.runs == [("id of lam_jax", "run")]
    assert mlflow.updated == [("made2", "RUNNING")]
    moment = round(1000 * record["time"])
    assert mlflow.metrics[:2] == [("rl/loss", 0.5, moment, 1), ("rl/reward/Tone_ _", 1.0, moment, 1)]
    assert [step for *_, step in mlflow.metrics] == [1, 1, 2, 2]
    assert mlflow.params == {
        "recipe.seed": "3",
        "recipe.rl.steps": "12",
        "recipe.lengths": "[1, 2]",
        "recipe.tasks.0.name": "help",
    }
    assert mlflow.ended == ["made2", "made2"]


def test_jsonl_is_written_whatever_the_sinks(tmp_path, wandb, mlflow):
    log(tmp_path / "none", ())
    log(tmp_path / "all", ("tensorboard", "wandb", "mlflow"))
    for name in ("none", "all"):
        assert [r["loss"] for r in read_metrics(tmp_path / name / "metrics.jsonl")] == [0.5]
    assert not (tmp_path / "none" / "tensorboard").exists()
    assert (tmp_path / "all" / "tensorboard" / "rl").exists()


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_missing_package_is_named_with_its_extra_and_the_folder_is_free_again(tmp_path, monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)

    def opened(sinks):
        return Run(tmp_path / "run", {}, Progress(enabled=False), watching=Watching(sinks=sinks))

    with pytest.raises(
        SinkError, match=rf"--log {name}: the package {name} is missing .*pip install 'lam_jax\[{name}\]'"
    ):
        opened(("tensorboard", name))
    opened(()).close()


def test_a_sink_that_refuses_its_settings_stops_the_start_and_says_how_to_go_on(tmp_path, wandb, monkeypatch):
    log(tmp_path, ("wandb",))

    def refuse(**arguments):
        raise PermissionError("run made1 is gone")

    monkeypatch.setattr(sys.modules["wandb"], "init", refuse)
    with pytest.raises(
        SinkError, match=r"--log wandb: .*run made1 is gone.*delete .*wandb_run\.json to log to a new run"
    ):
        open_sinks(("wandb",), tmp_path, CONFIG)


def test_a_sink_that_fails_later_is_logged_once_and_stops_nothing(tmp_path, wandb, caplog):
    with MetricsWriter(tmp_path, sinks=open_sinks(("wandb", "tensorboard"), tmp_path, CONFIG)) as writer:
        writer.begin("rl")
        writer.write("rl", 1, {"loss": 1.0})
        writer.sinks[0].sink._run.log = None  # not callable
        with caplog.at_level(logging.WARNING, "lam_jax"):
            for step in (2, 3):
                writer.write("rl", step, {"loss": 1.0})
    assert [r["step"] for r in read_metrics(tmp_path / "metrics.jsonl")] == [1, 2, 3]
    (message,) = caplog.messages
    assert message.startswith("wandb takes no further metrics of this run (TypeError")
    assert wandb.finished == 0


def test_what_a_sink_calls_the_run_is_kept_in_the_folder(tmp_path, wandb, mlflow):
    log(tmp_path, ("wandb", "mlflow"))
    found = {name: json.loads((tmp_path / f"{name}_run.json").read_text())["id"] for name in ("wandb", "mlflow")}
    assert found == {"wandb": "made1", "mlflow": "made2"}
