"""Backbone and latent modules together: the thing that is trained and rolled out.

Legend: B rows, L length, D width, V vocabulary, K codes.
"""

import dataclasses
from typing import Any

import jax
from flax import struct
from jaxtyping import Array, Float

from lam_jax.latent.config import LatentConfig
from lam_jax.latent.model import LatentModel
from lam_jax.latent.world import Readout, readout
from lam_jax.models.backbone import Backbone
from lam_jax.models.config import BackboneConfig
from lam_jax.models.families import spec_of
from lam_jax.nn.weight import materialize
from lam_jax.parallel import TRAIN, Rules, shardings


@dataclasses.dataclass(frozen=True)
class Reading:
    """How states become tokens: the readout, and whether text-only rows pass the projector P."""

    readout: Readout = "merged"
    project: bool = True


class Agent(struct.PyTreeNode):
    """A vision-language model with a latent action space."""

    backbone: Backbone
    latent: LatentModel

    @classmethod
    def spec(cls, backbone: BackboneConfig, latent: LatentConfig) -> "Agent":
        """Specs of all weights."""
        return cls(backbone=spec_of(backbone), latent=LatentModel.spec(latent, backbone.text))

    @property
    def specs(self) -> "Agent":
        """Specs of all weights, also of an agent that is only a part."""
        return self.spec(self.backbone.config, self.latent.config)

    @property
    def table(self) -> Array:
        """[V, D], what `lm_head` multiplies with."""
        return self.backbone.table

    def action_input(self, states: Float[Array, "*B D"], has_image: Array, reading: Reading) -> Float[Array, "*B D"]:
        """e, or mu_P(e) on rows without an image. `has_image` [B] is shaped to fit `states`."""
        shaped = has_image.reshape(has_image.shape + (1,) * (states.ndim - 1 - has_image.ndim))
        return self.latent.action_input(states, shaped, reading.project)

    def read(self, x: Float[Array, "*B D"], code: Float[Array, "*B D"], reading: Reading) -> Float[Array, "*B D"]:
        """The `lm_head` input for merge input `x` under codebook rows `code`."""
        merged, block = self.latent.world(x, code)
        return readout(reading.readout, x, merged, block, self.backbone.norm)


def init_latent(backbone: Backbone, config: LatentConfig, key: Array, mesh: Any, rules: Rules = TRAIN) -> Agent:
    """An agent with a given backbone and new latent modules, created sharded."""
    specs = LatentModel.spec(config, backbone.config.text)
    create = jax.jit(lambda k: materialize(specs, k), out_shardings=shardings(specs, mesh, rules))
    return Agent(backbone=backbone, latent=create(key))
