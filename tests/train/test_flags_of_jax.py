"""A step of stage 6 under flags of JAX that users have set: dtypes of weights stay, no NaN is made on the way."""

import os
import subprocess
import sys

CODE = """
import jax, numpy as np
jax.config.update("jax_disable_most_optimizations", True)
assert jax.config.jax_enable_x64 and jax.config.jax_debug_nans
from tests.train.made_rl import make, prompts
step, create = make("latent")
state = create()
before = [x.dtype for x in jax.tree.leaves((state.trainable, state.optimiser_state))]
state, metrics = step(state, prompts(0))
assert [x.dtype for x in jax.tree.leaves((state.trainable, state.optimiser_state))] == before
assert np.isfinite([float(value) for value in metrics.values()]).all()
assert float(metrics["update_norm"]) > 0
print("as ever")
"""


def test_a_step_in_64_bits_and_under_the_watch_for_nan():
    flags = {"JAX_ENABLE_X64": "1", "JAX_DEBUG_NANS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", CODE], env=os.environ | flags, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.stdout.endswith("as ever\n"), done.stderr[-2000:]
