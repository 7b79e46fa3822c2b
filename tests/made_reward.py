"""Rewards from functions of numbers, for tests."""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from lam_jax.rewards.verdict import Verdict


def as_reward(function: Callable[..., Any]) -> Callable[..., list[list[Verdict]]]:
    """A reward from a function (examples, answers) -> numbers [N, G], or these and whether each call succeeded."""

    @functools.wraps(function)
    def reward(examples, answers, samples):
        found = function(examples, answers)
        values, ok = found if isinstance(found, tuple) else (found, np.ones(np.shape(found), bool))
        return [
            [Verdict({"reward": (float(v), 1.0)}) if fine else Verdict(error="no reply") for v, fine in zip(row, fines)]
            for row, fines in zip(values, ok)
        ]

    return reward
