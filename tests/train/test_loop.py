"""The training loop on a one-weight problem whose numbers are known."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lam_jax.data.loader import Placed, Together
from lam_jax.errors import NonFiniteError
from lam_jax.runs.metrics import MetricsWriter, comparable, read_metrics
from lam_jax.runs.progress import Progress
from lam_jax.runs.tools import Tools
from lam_jax.train.loop import Phase, fit
from lam_jax.train.optimiser import OptimiserConfig, make_optimiser
from lam_jax.train.recorder import first_non_finite
from lam_jax.train.state import TrainState

STEPS = 6


@pytest.fixture
def optimiser():
    return make_optimiser(OptimiserConfig(0.1), STEPS)


@pytest.fixture
def state(optimiser, key):
    return TrainState.create({"w": jnp.ones(3)}, optimiser, key)


@pytest.fixture
def step(optimiser):
    @functools.partial(jax.jit, donate_argnums=0)
    def step(state, batch):
        loss, gradients = jax.value_and_grad(lambda t: jnp.mean(jnp.square(t["w"] - batch)))(state.trainable)
        state, metrics = state.apply_gradients(gradients, optimiser)
        return state, {"loss": loss, "noise": jax.random.normal(state.step_key()), **metrics}

    return step


def batches(count=STEPS):
    return [np.full(3, 5.0 + i, np.float32) for i in range(count)]


@pytest.fixture
def run(tmp_path):
    def run(state, step, data, steps=STEPS, folder="run", **kwargs):
        with MetricsWriter(tmp_path / folder) as writer:
            fitted = fit(Phase("phase", steps, **kwargs), state, step, data, Tools(writer, Progress(enabled=False)))
        assert read_metrics(tmp_path / folder / "metrics.jsonl") == fitted.history
        return fitted

    return run


def test_every_step_is_logged_with_its_own_metrics(run, state, step):
    fitted = run(state, step, batches())
    assert [r["step"] for r in fitted.history] == [1, 2, 3, 4, 5, 6]
    assert fitted.history[0]["loss"] == 16.0  # (1 - 5)^2 before the first update
    assert fitted.history[1]["loss"] == pytest.approx((1.1 - 6) ** 2, rel=1e-5)  # Adam's first step is lr
    assert {"grad_norm", "lr", "update_norm", "step_s"} <= set(fitted.history[0])
    assert int(fitted.state.step) == STEPS
    assert fitted.best is None


def test_two_runs_with_one_seed_log_the_same(run, optimiser, key, step):
    one, two = (
        run(TrainState.create({"w": jnp.ones(3)}, optimiser, key), step, batches(), folder=name).history
        for name in ("one", "two")
    )
    assert [comparable(r) for r in one] == [comparable(r) for r in two]


def test_going_on_from_the_middle_is_the_same_as_not_stopping(run, optimiser, key, step):
    whole = run(TrainState.create({"w": jnp.ones(3)}, optimiser, key), step, batches(), folder="whole")
    first = run(TrainState.create({"w": jnp.ones(3)}, optimiser, key), step, batches(), steps=4, folder="first")
    rest = run_rest(run, first.state, step)
    np.testing.assert_array_equal(rest.state.trainable["w"], whole.state.trainable["w"])
    assert [comparable(r) for r in rest.history] == [comparable(r) for r in whole.history[4:]]


def run_rest(run, state, step):
    return run(state, step, batches()[4:], folder="rest")


def test_best_is_a_copy_of_the_weights_with_the_highest_score(run, state, step):
    scores = iter([0.1, 0.9, 0.3, 0.9])
    seen = {}

    def evaluate(state):
        seen[int(state.step)] = np.asarray(state.trainable["w"]).copy()
        return {"score": next(scores), "length": 4}

    fitted = run(state, step, batches(), evaluate=evaluate, evaluate_every=2, keep_best=True)
    assert list(seen) == [0, 2, 4, 6]
    assert (fitted.best.step, fitted.best.score) == (2, 0.9)
    np.testing.assert_array_equal(fitted.best.trainable["w"], seen[2])
    logged = [(r["step"], r["eval_score"], r["eval_length"]) for r in fitted.history if "eval_score" in r]
    assert logged == [(0, 0.1, 4.0), (2, 0.9, 4.0), (4, 0.3, 4.0), (6, 0.9, 4.0)]


def test_evaluation_only_at_the_end(run, state, step):
    fitted = run(state, step, batches(), evaluate=lambda state: {"score": 1.0}, log_every=4)
    assert fitted.best.step == STEPS
    assert fitted.best.trainable is None, "no second copy of the weights unless it is asked for"
    assert [r["step"] for r in fitted.history if "loss" in r] == [4, 6]


def test_non_finite_metric_stops_with_step_and_name_even_when_not_logged(run, state, step):
    data = batches()
    data[2] = np.array([np.nan, 1, 1], np.float32)
    with pytest.raises(NonFiniteError, match="Phase phase, step 3: loss is nan, and it went first"):
        run(state, step, data, log_every=6)


def test_a_term_goes_before_the_loss_and_the_loss_before_its_gradient():
    nan, inf = float("nan"), float("inf")
    assert first_non_finite({"grad_norm": nan, "loss": nan, "nll": inf, "lr": 1.0}) == "nll"
    assert first_non_finite({"grad_norm": nan, "loss": nan}) == "loss"
    assert first_non_finite({"grad_norm": inf, "loss": 1.0, "update_norm": nan}) == "grad_norm"
    assert first_non_finite({"loss": 1.0}) is None


def test_metrics_are_fetched_one_step_late(run, state):
    order = []

    class Late(float):
        def __float__(self):
            order.append(f"fetch {int(self.real)}")
            return 1.0

    def step(state, batch):
        number = int(state.step) + 1
        order.append(f"step {number}")
        return state.replace(step=state.step + 1), {"loss": Late(number)}

    run(state, step, batches(3), steps=3)
    assert order == ["step 1", "step 2", "fetch 1", "step 3", "fetch 2", "fetch 3"]


def test_too_few_batches_are_named(run, state, step):
    with pytest.raises(ValueError, match="the data ended before step 6 of 6"):
        run(state, step, batches(5))


def test_missing_score_is_named(run, state, step):
    with pytest.raises(ValueError, match="expected a 'score'"):
        run(state, step, batches(), evaluate=lambda state: {"reward": 1.0})


def test_what_the_batches_note_is_logged_with_their_step(run, state, step):
    """Metrics of a stream of two, each of which is told of every item as it passes."""

    def counted(start, cut):
        return Placed(
            iter(np.full((STEPS, 3), 5.0, np.float32)), lambda x: x, lambda x: {"rows_cut": cut(x), start: 1.0}
        )

    pair = Together(counted("one", lambda x: 2.0), counted("two", lambda x: jnp.sum(jnp.asarray(x))))
    fitted = run(state, step, Placed(pair, lambda two: two[0]))
    assert [(r["rows_cut"], r["one"], r["two"]) for r in fitted.history] == [(17.0, 1.0, 1.0)] * STEPS
