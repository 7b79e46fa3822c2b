"""Without a TPU and a GPU jax does not start their runtimes; with an accelerator, or a choice, nothing is changed."""

import importlib.metadata
import importlib.util
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from lam_jax.hosts import platforms

ROOT = Path(__file__).parents[2]


@pytest.fixture
def machine(monkeypatch):
    """One that has libtpu, and a CPU alone; the choices of platforms that were made."""
    chosen = []
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object() if name == "libtpu" else None)
    for name in ("has_tpu", "has_gpu", "has_plugins"):
        monkeypatch.setattr(platforms, name, lambda: False)
    monkeypatch.setattr(
        platforms.jax,
        "config",
        type("Config", (), {"jax_platforms": None, "update": lambda *a: chosen.append(a[1:])})(),
    )
    return chosen


def test_a_machine_with_a_cpu_alone_uses_it(machine):
    assert platforms.runs_on_cpu()
    platforms.leave_absent_devices_out()
    assert machine == [("jax_platforms", "cpu")]


@pytest.mark.parametrize("found", ["has_tpu", "has_gpu", "has_plugins"])
def test_with_an_accelerator_jax_looks_for_itself(machine, monkeypatch, found):
    monkeypatch.setattr(platforms, found, lambda: True)
    platforms.leave_absent_devices_out()
    assert machine == []
    assert not platforms.runs_on_cpu()


@pytest.mark.parametrize(("chosen", "expected"), [("cpu", True), ("cuda", False), ("cuda,cpu", False)])
def test_a_chosen_platform_is_the_one(machine, chosen, expected):
    platforms.jax.config.jax_platforms = chosen
    assert platforms.runs_on_cpu() is expected


def test_a_choice_and_a_machine_without_compilers_are_left_alone(machine, monkeypatch):
    platforms.jax.config.jax_platforms = "cuda"
    platforms.leave_absent_devices_out()
    platforms.jax.config.jax_platforms = None
    monkeypatch.setattr(platforms, "has_compilers", lambda: False)
    platforms.leave_absent_devices_out()
    assert machine == []


@pytest.mark.parametrize(
    ("names", "compilers", "others"),
    [
        ((), False, False),
        (("xla_cuda13",), True, False),
        (("xla_cuda12", "xla_rocm7"), True, True),
        (("m",), False, True),
    ],
)
def test_the_plugin_for_cuda_may_be_there_for_compiling_only(monkeypatch, names, compilers, others):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    points = [importlib.metadata.EntryPoint(name, "", "jax_plugins") for name in names]
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: points)
    assert (platforms.has_compilers(), platforms.has_plugins()) == (compilers, others)


def test_plugins_are_found_where_jax_looks_for_them(tmp_path):
    (tmp_path / "jax_plugins" / "xla_cuda13").mkdir(parents=True)
    (tmp_path / "jax_plugins" / "xla_cuda13" / "__init__.py").touch()
    program = f"""import sys; sys.path.insert(0, {str(tmp_path)!r})
from lam_jax.hosts.platforms import _plugins
assert "xla_cuda13" in _plugins()"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_tpu_is_known_by_its_vendor(tmp_path):
    files = [tmp_path / name for name in ("nic", "tpu")]
    for file, vendor in zip(files, ("0x8086\n", "0x1ae0\n")):
        file.write_text(vendor)
    assert not platforms.has_tpu(files[:1])
    assert platforms.has_tpu(files)


@pytest.mark.parametrize("module", ["lam_jax.models.tokenizer", "lam_jax.models.processor", "lam_jax.scenes.tokenizer"])
def test_that_torch_is_missing_is_not_said(module):
    """In a process where it cannot be found; what else transformers says is shown."""
    say = "import logging; logging.getLogger('transformers').warning('a word of warning')"
    program = f"import sys; sys.modules['torch'] = None; import {module}; {say}"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "PyTorch" not in done.stderr
    assert "a word of warning" in done.stderr


def test_jax_has_the_names_that_are_relied_on():
    assert hasattr(jax.config, "jax_platforms")
