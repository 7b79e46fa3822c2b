"""Loading and saving by two processes of four devices each: each reads only its own half."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np

from lam_jax.formats.load_backbone import load_backbone
from lam_jax.formats.save_backbone import save_backbone
from lam_jax.parallel import TRAIN, make_mesh
from tests.formats import made_checkpoint as made
from tests.formats.test_load import TINY
from tests.host_devices import several_devices

NAME = "model.layers.1.mlp.gate_proj.weight"
PROCESS = """
import json, sys
import jax
address, number, folder, out = sys.argv[1:]
jax.distributed.initialize(address, 2, int(number))
from lam_jax.parallel import TRAIN, make_mesh
from lam_jax.formats import load_backbone as load, safetensors_io
from lam_jax.formats.save_backbone import save_backbone

read = {}
original = safetensors_io.SafetensorsFile.read

def counting(self, name, index=()):
    array = original(self, name, index)
    read[name] = read.get(name, 0) + array.nbytes
    return array

safetensors_io.SafetensorsFile.read = counting
model = load.load_backbone(folder, make_mesh((1, 4, 2)), TRAIN)
save_backbone(model, out)
print(json.dumps(read))
"""


def test_each_process_reads_its_half_and_together_they_save_all(tmp_path: Path):
    folder = made.write(tmp_path / "hf", TINY, made.tensors(TINY, np.dtype(np.float32)), shards=2)
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        address = f"localhost:{probe.getsockname()[1]}"
    settings = several_devices(4, processes=2) | {"JAX_PLATFORMS": "cpu"}
    environment = {**os.environ, **settings, "PYTHONPATH": str(Path(__file__).parents[2])}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS, address, str(number), str(folder), str(tmp_path / "both")],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(2)
    ]
    for process in processes:
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0, err
        # Gloo also writes to the standard output.
        read = json.loads(next(line for line in out.splitlines() if line.startswith("{")))
        assert read.keys() == made.shapes(TINY).keys()
        assert read[NAME] == 48 * 32 * 4 // 2
    save_backbone(load_backbone(folder, make_mesh((1, 1, 1)), TRAIN), tmp_path / "one")
    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "both" / name).read_bytes()
