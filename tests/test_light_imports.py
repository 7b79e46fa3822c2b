"""Rollouts and updates on a machine with little installed: no other dependency of ours is imported for them."""

import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent
# With what these install themselves, such as rich (flax), scipy (jax) and tokenizers (transformers).
ENOUGH = {"jax", "flax", "optax", "orbax-checkpoint", "numpy", "transformers", "jaxtyping", "pillow"}
BROUGHT_ALONG = {"rich", "scipy", "tokenizers"}
PACKAGES = (
    *("errors", "nn", "cpu", "gpu", "losses", "rl", "parallel", "models", "latent", "formats", "data", "rewards"),
    "environments",
    *("rollout", "hosts", "runs", "train", "evaluation"),
)
PROGRAM = """
import importlib, sys

absent, names = (argument.split(",") for argument in sys.argv[1:])
sys.modules.update(dict.fromkeys(absent))  # None: such a module cannot be found
for name in names:
    importlib.import_module(name)
"""


def dependencies() -> set[str]:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    return {line.partition(">")[0] for line in listed}


def modules() -> list[str]:
    files = [file for package in PACKAGES for file in (ROOT / "lam_jax" / package).rglob("*.py")]
    files += [file for package in PACKAGES if (file := ROOT / "lam_jax" / f"{package}.py").exists()]
    return [".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for file in files]


def test_rollouts_and_updates_import_little():
    absent = dependencies() - ENOUGH - BROUGHT_ALONG
    assert {"grain", "tyro", "tensorboardX", "matplotlib"} <= absent
    names = [name.replace("-", "_") for name in absent]
    arguments = [sys.executable, "-c", PROGRAM, ",".join(names), ",".join(["lam_jax", *modules()])]
    done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
