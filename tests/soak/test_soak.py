"""A handful of the trials of `make soak`."""

import pytest

from tests.soak.trials import run_trial, uninterrupted


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tmp_path_factory.mktemp("soak")


@pytest.fixture(scope="module")
def whole(base):
    return uninterrupted(base / "whole" / "run", "kill -9")


@pytest.mark.parametrize(("seed", "kind"), list(enumerate(["kill -9", "disk full"])))
def test_interrupted_and_resumed_is_bit_identical(base, whole, kind, seed):
    trial = run_trial(base / str(seed), kind, seed, whole, most=1)
    assert trial.problems == []
    assert len(trial.codes) == 1
    assert trial.codes[0] != 0, "the run was interrupted before it was done"


@pytest.mark.processes
def test_two_processes_end_alike_although_one_of_them_is_killed(base):
    """Each under its watchdog, which ends it when the other one is gone."""
    whole = uninterrupted(base / "whole_two" / "run", "one of two killed")
    trial = run_trial(base / "two", "one of two killed", 5, whole, most=1)
    assert trial.problems == []
    assert sorted(trial.codes) == [13, 137]
