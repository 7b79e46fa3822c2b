"""Every stage and RL of a tiny agent on a mesh of all devices: `python -m tests.processes.child RUN MESH PHASE...`.

With `LAM_JAX_*` set it is one of several processes. A phase "joint:3" is asked to stop after its third update, as by
SIGTERM.
"""

import sys

from lam_jax.parallel.processes import start

if __name__ == "__main__":
    start()
    # Made-up batches are put on a device when they are imported, which must come after the start.
    from tests.processes.phases import main

    main(*sys.argv[1:])
