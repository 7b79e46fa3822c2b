"""Settings of what is shown."""

import dataclasses

import pytest

from lam_jax.runs.watching import Watching


def test_the_first_the_last_and_every_tenth_step_are_shown():
    assert [step for step in range(1, 26) if Watching().is_shown(step, 25)] == [1, 10, 20, 25]
    assert [step for step in range(1, 8) if Watching(samples_every=3).is_shown(step, 7)] == [1, 3, 6, 7]
    assert not any(Watching(samples_every=0).is_shown(step, 25) for step in range(1, 26))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"samples_every": -1}, "Watching.samples_every is -1, expected at least 0"),
        ({"shown": 0}, "Watching.shown is 0, expected at least 1"),
        ({"sinks": ("tensorboard", "comet")}, r"Watching.sinks holds 'comet', expected some of \['tensorboard'"),
        ({"sinks": ("wandb", "wandb")}, "expected different sinks"),
    ],
)
def test_what_cannot_be_meant_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(Watching(), **fields)
