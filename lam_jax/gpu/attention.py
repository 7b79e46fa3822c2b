"""Attention of whole rows by cuDNN, which never writes the scores: forward and backward on NVIDIA GPUs.

At 32 rows of 1024 queries over 2048 keys (3B, H100) the scores of a layer are 4.3 GB in float32.
Legend: B leading dimensions, T queries, S keys, H heads, K kv heads, D head dimension.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

DTYPES = (jnp.bfloat16, jnp.float16)
LARGEST = 128  # head dimension that cuDNN takes on every card since Ampere


def fused_attention(
    q: Float[Array, "*B T H D"], k: Float[Array, "*B S K D"], v: Float[Array, "*B S K D"], keep: Bool[Array, "*B T S"]
) -> Float[Array, "*B T H D"] | None:
    """As `lam_jax.nn.attention.attention`; None where cuDNN cannot: float32, odd lengths, unusual head sizes."""
    *lead, length, heads, dim = q.shape
    fits = q.dtype in DTYPES and dim <= LARGEST and dim % 8 == 0 and length % 2 == 0 and k.shape[-3] % 2 == 0
    if not fits:
        return None
    q, k, v = (x.reshape(-1, *x.shape[-3:]) for x in (q, k, v))
    keep = keep.reshape(-1, 1, *keep.shape[-2:])
    y = jax.nn.dot_product_attention(q, k, v, mask=keep, implementation="cudnn")
    # A query without keys gets the mean of all values there, and zero here.
    seen = jnp.swapaxes(jnp.any(keep, axis=-1), 1, 2)[..., None]
    return jnp.where(seen, y, jnp.zeros((), y.dtype)).reshape(*lead, length, heads, dim)
