"""A phase that is stopped between two updates and goes on ends like one that was never stopped."""

import logging
import os
import signal

import jax
import numpy as np
import pytest

from lam_jax.errors import InterruptedRunError, NonFiniteError, NoSpaceError, NoUsableRewardError, PreemptedError
from lam_jax.runs.metrics import comparable, read_metrics
from lam_jax.runs.stop import StopRequest
from tests.runs.test_checkpoint import assert_same, flip_bit
from tests.train import made_phase
from tests.train.made_phase import STEPS, StopAt, TwoUpdates, gradient_step, new_data, new_state, train

WORKS = {"plain": gradient_step, "two updates": TwoUpdates()}


@pytest.fixture(autouse=True)
def ctrl_c_is_heard():
    """Also where the tests run in the background of a script, whose shell has them ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_an_evaluation_without_a_reward_is_made_up_for(tmp_path, whole, monkeypatch):
    """The second fails, then the last: each time what is done is saved, and the run goes on with the evaluation."""
    made = []

    def evaluate(state, usual=made_phase.evaluate):
        made.append(int(state.step))
        if made in ([0, 4], [0, 4, 4, 8, 12]):
            raise NoUsableRewardError("no reward at all")
        return usual(state)

    monkeypatch.setattr(made_phase, "evaluate", evaluate)
    for _ in range(2):
        with pytest.raises(NoUsableRewardError):
            train(tmp_path, every=0)
    assert_equal_runs(train(tmp_path, every=0), tmp_path, whole["plain"])
    assert made == [0, 4, 4, 8, 12, 12]


class Crash(Exception):
    """Stands for a process that dies."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Uninterrupted runs by kind of step, without any checkpoint, and their metrics."""
    found = {}
    for name, step in WORKS.items():
        folder = tmp_path_factory.mktemp("whole")
        found[name] = train(folder, every=0, step=step), read_metrics(folder / "metrics.jsonl")
    return found


def assert_equal_runs(fitted, folder, whole):
    expected, records = whole
    assert_same(fitted.state, expected.state)
    assert_same(fitted.best.trainable, expected.best.trainable)
    assert (fitted.best.step, fitted.best.score) == (expected.best.step, expected.best.score)
    found = [comparable(record) for record in read_metrics(folder / "metrics.jsonl")]
    assert found == [comparable(record) for record in records]
    assert [comparable(record) for record in fitted.history] == found


@pytest.mark.parametrize("name", WORKS)
def test_stopped_at_each_update_it_goes_on_bit_for_bit(tmp_path, whole, name):
    step = WORKS[name]
    updates = getattr(step, "updates", 1)
    with pytest.raises(PreemptedError, match=r"Stopped by SIGTERM in phase phase after update 1, saved in .*step_0+1"):
        train(tmp_path, every=0, step=step, stop=StopAt(1))
    for done in range(2, STEPS * updates, 3):
        with pytest.raises(PreemptedError, match=f"after update {done},"):
            train(tmp_path, every=0, step=step, stop=StopAt(3 if done > 2 else 1))
    assert_equal_runs(train(tmp_path, every=0, step=step), tmp_path, whole[name])


def test_the_best_score_goes_on_without_its_weights(tmp_path, whole):
    """Where they are not asked for no checkpoint holds a second copy of the weights."""
    for stop in (5, 3):
        with pytest.raises(PreemptedError):
            train(tmp_path, every=0, stop=StopAt(stop), keep_best=False)
    fitted = train(tmp_path, every=0, keep_best=False)
    expected, _ = whole["plain"]
    assert (fitted.best.step, fitted.best.score) == (expected.best.step, expected.best.score)
    assert fitted.best.trainable is None
    assert_same(fitted.state, expected.state)


@pytest.mark.parametrize("name", WORKS)
def test_after_a_crash_it_goes_on_from_the_last_regular_checkpoint(tmp_path, whole, name):
    step = WORKS[name]
    updates = getattr(step, "updates", 1)

    class Crashing:
        """Dies in the update after `last`."""

        def __init__(self, last):
            self.updates, self.last, self.work = updates, last, step

        def prepare(self, state, batch):
            return step.prepare(state, batch) if updates > 1 else (batch, {})

        def buffer_like(self, state, batch):
            return step.buffer_like(state, batch)

        def apply(self, state, buffer, index):
            if int(state.step) == self.last:
                raise Crash
            return step.apply(state, buffer, index) if updates > 1 else step(state, buffer)

        def finish(self, state, buffer, metrics):
            return metrics

    for last in (1, 2, 8, 10):
        with pytest.raises(Crash):
            train(tmp_path, every=3, step=Crashing(last))
    names = sorted(path.name for path in (tmp_path / "phase_checkpoints").iterdir())
    assert names == ["step_00000006", "step_00000009"]
    assert_equal_runs(train(tmp_path, every=3, step=step), tmp_path, whole[name])


def test_damaged_checkpoint_is_passed_over_and_the_result_is_the_same(tmp_path, whole, caplog):
    with pytest.raises(PreemptedError):
        train(tmp_path, every=3, stop=StopAt(8))
    steps = sorted((tmp_path / "phase_checkpoints").iterdir())
    assert [path.name for path in steps] == ["step_00000006", "step_00000008"]
    for file in (steps[-1] / "arrays").rglob("d/*"):  # which of the small files hold the arrays is Orbax's affair
        for place in np.linspace(0.05, 0.95, 40):
            flip_bit(file, place)
    with caplog.at_level(logging.ERROR, "lam_jax"):
        fitted = train(tmp_path, every=3)
    assert "step_00000008: damaged checkpoint" in caplog.text
    assert_equal_runs(fitted, tmp_path, whole["plain"])


@pytest.mark.parametrize(
    ("number", "error", "words"),
    [
        (signal.SIGTERM, PreemptedError, "Stopped by SIGTERM in phase phase after update 6, saved in"),
        (signal.SIGINT, InterruptedRunError, "Stopped by Ctrl-C in phase phase after update 6, saved in"),
    ],
)
def test_a_signal_is_answered_at_the_next_update(tmp_path, whole, capfd, number, error, words):
    signalled = []

    def step(state, batch):
        if int(state.step) == 5 and not signalled:
            signalled.append(True)
            os.kill(os.getpid(), number)
        return gradient_step(state, batch)

    before = [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)]
    with StopRequest() as stop, pytest.raises(error, match=words) as caught:
        train(tmp_path, every=0, step=step, stop=stop)
    assert type(caught.value) is error
    assert "Run the same command again: it goes on from there" in str(caught.value)
    assert [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)] == before
    assert ("Press Ctrl-C again to end it at once" in capfd.readouterr().err) == (number == signal.SIGINT)
    assert_equal_runs(train(tmp_path, every=0), tmp_path, whole["plain"])


def test_a_second_ctrl_c_ends_the_run_at_once(tmp_path, whole):
    """In the middle of a step, before anything is saved; the run goes on from the last regular checkpoint."""

    def step(state, batch):
        if int(state.step) == 5:
            for _ in range(2):
                os.kill(os.getpid(), signal.SIGINT)
            raise AssertionError("the second signal was not answered")
        return gradient_step(state, batch)

    with StopRequest() as stop, pytest.raises(KeyboardInterrupt, match=r"second Ctrl-C\. Run the same command again"):
        train(tmp_path, every=3, step=step, stop=stop)
    assert [path.name for path in (tmp_path / "phase_checkpoints").iterdir()] == ["step_00000003"]
    assert_equal_runs(train(tmp_path, every=3), tmp_path, whole["plain"])


def test_sigterm_before_ctrl_c_does_not_make_it_the_second(tmp_path):
    """A watchdog passes Ctrl-C on as SIGTERM, which may come first."""

    def step(state, batch):
        if int(state.step) == 5:
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGTERM):
                os.kill(os.getpid(), number)
        return gradient_step(state, batch)

    with StopRequest() as stop, pytest.raises(InterruptedRunError, match="after update 6, saved in"):
        train(tmp_path, every=0, step=step, stop=stop)


@pytest.mark.parametrize(("number", "error"), [(signal.SIGTERM, PreemptedError), (signal.SIGINT, InterruptedRunError)])
def test_a_signal_outside_a_phase_ends_the_run_at_once(number, error):
    with pytest.raises(error, match=r"between two checkpoints\. Run the same command again"), StopRequest():
        os.kill(os.getpid(), number)


def test_a_signal_is_not_taken_for_damage_of_what_is_being_read():
    """Readers of files and calls of rewards catch every Exception, and say what it was that they could not use."""

    def read():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except Exception as error:
            raise ValueError("the file is damaged") from error

    with pytest.raises(PreemptedError, match="Stopped by SIGTERM between two checkpoints"), StopRequest():
        read()


def test_ctrl_c_stays_ignored_where_it_was():
    """As in the background of a shell."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with StopRequest() as stop:
            os.kill(os.getpid(), signal.SIGINT)
            assert not stop.visit()
    finally:
        signal.signal(signal.SIGINT, before)


def test_disk_full_ends_the_phase_and_leaves_the_checkpoint_before(tmp_path, whole, monkeypatch):
    from lam_jax.runs import checkpoint

    def full(path, needed):
        if "step_00000009" in str(path):
            raise NoSpaceError(f"{path}: no space")

    monkeypatch.setattr(checkpoint, "require_space", full)
    with pytest.raises(NoSpaceError, match="step_00000009"):
        train(tmp_path, every=3)
    monkeypatch.undo()
    names = sorted(path.name for path in (tmp_path / "phase_checkpoints").iterdir())
    assert names == ["step_00000003", "step_00000006"]
    assert_equal_runs(train(tmp_path, every=3), tmp_path, whole["plain"])


def test_weights_that_are_no_numbers_are_not_saved(tmp_path):
    def broken(state, batch):
        state, metrics = gradient_step(state, batch)
        return state, metrics | {"loss": metrics["loss"] + (np.nan if int(state.step) == 6 else 0.0)}

    with pytest.raises(NonFiniteError, match="step 6: loss is nan"):
        train(tmp_path, every=3, step=broken)
    assert [path.name for path in (tmp_path / "phase_checkpoints").iterdir()] == ["step_00000003"]


def test_data_without_a_position_is_refused(tmp_path):
    from lam_jax.runs.phase_checkpoint import PhaseSaver

    with pytest.raises(TypeError, match="found data of type list_iterator, expected get_state and set_state"):
        PhaseSaver(tmp_path).restore("phase", new_state(), TwoUpdates(), iter([]))
    assert jax.tree.leaves(new_data().get_state())
