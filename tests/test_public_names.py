"""`import lam_jax` is quick, and its public names are there and the ones that type checkers are told of."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import lam_jax

STUB = Path(lam_jax.__file__).with_suffix(".pyi")
NAMES = {name: module for module, name in re.findall(r"^from ([\w.]+) import (\w+) as", STUB.read_text(), re.MULTILINE)}


@pytest.mark.parametrize("name", NAMES)
def test_a_public_name_is_what_the_stub_says(name):
    module = sys.modules.get(NAMES[name]) or __import__(NAMES[name], fromlist=[name])
    assert getattr(lam_jax, name) is getattr(module, name)
    assert name in dir(lam_jax)


def test_the_stub_has_every_public_name():
    assert set(NAMES) == set(lam_jax._WHERE)


def test_other_names_are_refused():
    with pytest.raises(AttributeError, match="has no attribute 'Trainer'"):
        _ = lam_jax.Trainer


def test_importing_the_package_imports_no_jax():
    script = "import sys, lam_jax; assert 'jax' not in sys.modules and lam_jax.__version__"
    subprocess.run([sys.executable, "-c", script], check=True)
