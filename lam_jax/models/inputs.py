"""What the model reads: batches of fixed shape, made on the host.

Legend: B rows, L length, P patches of a row, W attention windows of a row, S patches of a window. -1 = padding.
"""

from typing import Any

import jax.numpy as jnp
from flax import struct

# NumPy from the collator, jax on the device; shape structs and shardings stand in the same places.
Array = Any


class Images(struct.PyTreeNode):
    """All images of each row, patches in the processor's order (the patches of a merge group are neighbours)."""

    patches: Array  # float32 [B, P, 1176]
    patch_hw: Array  # int32 [B, P, 2], row and column in the image
    image_id: Array  # int32 [B, P], which image of the row
    window_slots: Array  # int32 [B, W, S], patch indices of each window


class Batch(struct.PyTreeNode):
    """Token rows with everything the model and the losses need to know of them."""

    tokens: Array  # int32 [B, L]
    mask: Array  # bool [B, L], real token
    valid: Array  # bool [B, L], valid(t): not pad, vision start, vision end, image pad (method.md section 3)
    response: Array  # bool [B, L], assistant tokens with their end-of-turn token
    positions: Array  # int32 [B, 3, L], M-RoPE; 1 at padding
    has_image: Array  # bool [B]
    images: Images | None = None

    def without_images(self) -> "Batch":
        """The same tokens, image withheld: placeholder embeddings stay, positions are 1-D (method.md section 2)."""
        order = jnp.where(self.mask, jnp.cumsum(self.mask, axis=1, dtype=jnp.int32) - 1, 1)
        positions = jnp.broadcast_to(order[:, None, :], self.positions.shape)
        return self.replace(positions=positions, images=None)
