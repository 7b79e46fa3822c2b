"""Compilations are counted by jax's own events."""

import logging

import jax
import jax.numpy as jnp

from lam_jax.train.compilation import compilations, compile_seconds, warn_of_recompilation


def test_a_new_shape_counts_once_and_is_warned_of(caplog):
    double = jax.jit(lambda x: 2 * x)
    inputs = [jnp.ones(n) for n in (3, 5)]
    jax.block_until_ready(double(inputs[0]))
    before, seconds = compilations(), compile_seconds()
    with caplog.at_level(logging.WARNING), warn_of_recompilation("the step"):
        double(inputs[0])
    assert compilations() == before
    assert not caplog.records
    with caplog.at_level(logging.WARNING), warn_of_recompilation("the step"):
        double(inputs[1])
    assert compilations() == before + 1
    assert compile_seconds() > seconds
    assert "the step compiled 1 program(s)" in caplog.text
