"""Names of the action spaces as flags take them."""

from typing import Literal

# Those of `lam_jax.train.spaces`, written again because importing it would import jax.
SpaceName = Literal["latent", "hybrid", "token"]
