"""A device that is later than XLA's own time-out of 40 s is waited for."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.host_devices import several_devices

PROGRAM = """
import sys, time
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import Mesh, PartitionSpec as P

def wait(index):
    time.sleep(float(sys.argv[1]) if index == 0 else 0)
    return np.float32(1)

def add(x):
    one = jax.pure_callback(wait, jax.ShapeDtypeStruct((), jnp.float32), jax.lax.axis_index("d"))
    return jax.lax.psum(x * one, "d")

mesh = Mesh(np.array(jax.devices()), ("d",))
print(jax.jit(jax.shard_map(add, mesh=mesh, in_specs=P("d"), out_specs=P()))(jnp.ones(8)))
"""


def add(seconds: float, more: str = "") -> subprocess.CompletedProcess:
    environment = os.environ | several_devices(8, more) | {"PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", PROGRAM, str(seconds)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.sharding
def test_a_late_device_is_waited_for():
    done = add(45)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip() == "[8.]"
