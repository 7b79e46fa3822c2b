"""What the model reads: batches of fixed shape, made on the host.

Legend: B rows, L length, P patches of a row, E values of a patch, W attention windows of a row, S patches of a window.
-1 = padding.
"""

import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float32, Int32

from lam_jax.nn.leaf import Leaf


class Images(struct.PyTreeNode):
    """All images of each row, patches in the processor's order (the patches of a merge group are neighbours)."""

    patches: Float32[Array, "B P E"] | Leaf
    patch_hw: Int32[Array, "B P 2"] | Leaf  # row and column in the image
    image_id: Int32[Array, "B P"] | Leaf  # which image of the row
    # What only some families' towers read (`VisionSizes.picture`).
    window_slots: Int32[Array, "B W S"] | Leaf = None  # patch indices of each window
    table_index: Int32[Array, "B P 4"] | Leaf = None  # entries of a learned table of positions
    table_weight: Float32[Array, "B P 4"] | Leaf = None  # how much of each


class Batch(struct.PyTreeNode):
    """Token rows with everything the model and the losses need to know of them."""

    tokens: Int32[Array, "B L"] | Leaf
    mask: Bool[Array, "B L"] | Leaf  # real token
    valid: Bool[Array, "B L"] | Leaf  # valid(t): not pad, not an image's tokens (method.md section 3)
    response: Bool[Array, "B L"] | Leaf  # assistant tokens with their end-of-turn token
    positions: Int32[Array, "B 3 L"] | Leaf  # M-RoPE; 1 at padding
    has_image: Bool[Array, " B"] | Leaf
    images: Images | None = None

    def without_images(self) -> "Batch":
        """The same tokens, image withheld: placeholder embeddings stay, positions are 1-D (method.md section 2)."""
        order = jnp.where(self.mask, jnp.cumsum(self.mask, axis=1, dtype=jnp.int32) - 1, 1)
        positions = jnp.broadcast_to(order[:, None, :], self.positions.shape)
        return self.replace(positions=positions, images=None)
