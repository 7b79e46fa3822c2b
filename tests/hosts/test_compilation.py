"""Compilations are counted by jax's own events."""

import logging

import jax
import jax.numpy as jnp

from lam_jax.hosts.compilation import CompileClock, warn_of_recompilation


def test_a_new_shape_counts_once_and_is_warned_of(caplog):
    double = jax.jit(lambda x: 2 * x)
    inputs = [jnp.ones(n) for n in (3, 5)]
    jax.block_until_ready(double(inputs[0]))
    with caplog.at_level(logging.WARNING), warn_of_recompilation("The step:", 0.0) as clock:
        double(inputs[0])
    assert clock.programs == 0
    assert not caplog.records
    with caplog.at_level(logging.WARNING), warn_of_recompilation("The step:", 0.0) as clock:
        double(inputs[1])
    assert clock.programs == 1
    assert clock.seconds > 0
    assert "The step: it compiled 1 program(s)" in caplog.text


def test_a_closed_clock_hears_nothing():
    with CompileClock() as clock:
        pass
    jax.block_until_ready(jax.jit(lambda x: 3 * x)(jnp.ones(7)))
    assert clock.programs == 0
