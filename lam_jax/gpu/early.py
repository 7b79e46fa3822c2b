"""Programmatic dependent launch (from Hopper on): the next kernel starts while this one still runs.

That hides what starting a kernel costs. Every kernel that XLA compiles for Hopper, ours too, waits for those before
it to end before it reads anything (PTX of jax 0.11.2: `griddepcontrol.wait` comes first, ours lets go right after it).
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array


def after_letting_dependents_start(number: Array) -> Array:
    """The same number. It passes through the instruction, or the compiler would drop that; as a vector, one a warp."""
    from jax.experimental.pallas import triton

    (same,) = triton.elementwise_inline_asm(
        "mov.b32 $0, $1; griddepcontrol.launch_dependents;",
        args=[jnp.full((32,), number, jnp.int32)],
        constraints="=r,r",
        pack=1,
        result_shape_dtypes=[jax.ShapeDtypeStruct((32,), jnp.int32)],
    )
    return jnp.max(same)
