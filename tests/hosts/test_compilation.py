"""Compilations are counted by jax's own events."""

import logging
import os
import pwd
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from lam_jax.hosts.compilation import CompileClock, keep_compiled_programs, warn_of_recompilation


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


@pytest.fixture
def jax_settings(monkeypatch) -> dict:
    """What would be told jax; no cache folder is named by the environment."""
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    told = {}
    monkeypatch.setattr(jax.config, "update", lambda name, value: told.update({name: value}))
    return told


def nobody(number):
    raise KeyError(f"getpwuid(): uid not found: {number}")


def test_the_users_cache_folder_is_used_wherever_it_is_named(monkeypatch, tmp_path, jax_settings):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for named, expected in (
        (None, tmp_path / "home" / ".cache"),
        ("", tmp_path / "home" / ".cache"),
        ("relative/cache", tmp_path / "home" / ".cache"),  # to be passed over, by the standard
        (str(tmp_path / "xdg"), tmp_path / "xdg"),
    ):
        if named is not None:
            monkeypatch.setenv("XDG_CACHE_HOME", named)
        found = keep_compiled_programs()
        assert found == expected / "lam_jax" / "programs"
        assert jax_settings.pop("jax_compilation_cache_dir") == str(found)
        assert found.is_dir()
        assert not any(found.iterdir())
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "/elsewhere")
    assert keep_compiled_programs() == Path("/elsewhere")
    assert "jax_compilation_cache_dir" not in jax_settings


@pytest.mark.parametrize(
    "kind", ["no home", "home is a file", "home is relative", "cache is a file", "cannot be written", "nul"]
)
def test_without_a_cache_folder_a_run_goes_on_and_says_so(monkeypatch, tmp_path, caplog, jax_settings, kind):
    file = tmp_path / "file"
    file.touch()
    monkeypatch.setenv("HOME", str(tmp_path))
    if kind == "no home":  # a container with a number for a user
        monkeypatch.delenv("HOME")
        monkeypatch.setattr(pwd, "getpwuid", nobody)
    elif kind == "home is a file":
        monkeypatch.setenv("HOME", str(file))
    elif kind == "home is relative":
        monkeypatch.setenv("HOME", "here")
    elif kind == "cache is a file":
        monkeypatch.setenv("XDG_CACHE_HOME", str(file))
    elif kind == "nul":
        monkeypatch.setattr(os.path, "isabs", lambda path: True)
        monkeypatch.setattr(os.environ, "get", lambda name, default=None: "/\0" if name.startswith("XDG") else default)
    else:
        monkeypatch.setattr(
            "tempfile.TemporaryFile", lambda **_: (_ for _ in ()).throw(OSError(30, "Read-only file system"))
        )
    with caplog.at_level(logging.WARNING, "lam_jax"):
        assert keep_compiled_programs() is None
    assert "Compiled programs are not kept" in caplog.text
    assert "Set JAX_COMPILATION_CACHE_DIR" in caplog.text
    assert not jax_settings
