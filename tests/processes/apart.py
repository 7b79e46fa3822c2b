"""Sums over mesh axes that cross two processes, the second late: `python -m tests.processes.apart SECONDS MESH`."""

import functools
import sys
import time

import jax
from jax.sharding import PartitionSpec

from lam_jax.parallel.processes import start, whole_mesh


def main(seconds: str, sizes: str) -> None:
    start()
    mesh = whole_mesh(tuple(int(size) for size in sizes.split("x")))

    @jax.jit
    @functools.partial(jax.shard_map, mesh=mesh, in_specs=(), out_specs=PartitionSpec(mesh.axis_names))
    def add():
        one = 1 + 0 * jax.lax.axis_index(mesh.axis_names)
        return (jax.lax.psum(one, "data") + 10 * jax.lax.psum(one, ("data", "fsdp"))).reshape(1)

    program = add.lower().compile()
    time.sleep(float(seconds) if jax.process_index() == 1 else 0)
    print("sums", {int(shard.data[0]) for shard in program().addressable_shards}, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
