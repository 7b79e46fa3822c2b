"""XLA's flags of short runs: where they are set, and that the installed XLA takes them."""

import os
import subprocess
import sys

import pytest

from lam_jax.hosts import quick_compilation
from lam_jax.hosts.quick_compilation import FLAGS, OLDER_FLAGS, compile_quickly


def flags(given: str = "") -> set[str]:
    environment = {"XLA_FLAGS": given}
    compile_quickly(environment)
    return set(environment["XLA_FLAGS"].split())


def named(values):
    return {f"--{name}={value}" for name, value in values.items()}


@pytest.mark.parametrize(("version", "expected"), [("0.10.2", FLAGS | OLDER_FLAGS), ("0.12.0.1", FLAGS)])
def test_flags_that_this_xla_has_are_added(monkeypatch, version, expected):
    monkeypatch.setattr(quick_compilation, "version", lambda name: version)
    assert flags("--a=1") == {"--a=1"} | named(expected)


def test_a_value_of_ones_own_stays(monkeypatch):
    monkeypatch.setattr(quick_compilation, "version", lambda name: "0.10.2")
    own = "--xla_backend_optimization_level=3"
    assert flags(own) == {own} | named(OLDER_FLAGS)


def test_with_an_accelerator_nothing_is_changed(monkeypatch):
    monkeypatch.setattr(quick_compilation, "runs_on_cpu", lambda: False)
    assert flags("--a=1") == {"--a=1"}


def test_xla_takes_the_flags():
    """It aborts the process otherwise."""
    code = "import os; from lam_jax.hosts.quick_compilation import compile_quickly; compile_quickly()"
    code += "; import jax; print(os.environ['XLA_FLAGS']); print(jax.jit(lambda x: x + 1)(1))"
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "--xla_backend_optimization_level=1" in done.stdout
    assert done.stdout.splitlines()[-1] == "2"
