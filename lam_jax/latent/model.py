"""All latent-action modules together. They take hidden states, never a backbone."""

import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from lam_jax.latent.code_model import CodeModel
from lam_jax.latent.config import LatentConfig
from lam_jax.latent.projector import Projector
from lam_jax.latent.world import WorldModel
from lam_jax.models.config import TextSizes
from lam_jax.nn.weight import Param, Weight


class LatentModel(struct.PyTreeNode):
    """Inverse dynamics, codebook [K, D], world model, policy, projector P and backward projector P'."""

    inverse: CodeModel
    codebook: Param
    world: WorldModel
    policy: CodeModel
    projector: Projector
    back_projector: Projector
    config: LatentConfig = struct.field(pytree_node=False)

    @classmethod
    def spec(cls, config: LatentConfig, text: TextSizes) -> "LatentModel":
        """Specs; new weights are N(0, 0.02), biases 0, norm scales 1 (method.md section 2)."""
        return cls(
            inverse=CodeModel.spec(text, config.inverse_layers, config.codes),
            codebook=Weight((config.codes, text.width), ("codes", "embed")),
            world=WorldModel.spec(text, config.merge_layers),
            policy=CodeModel.spec(text, config.policy_layers, config.codes),
            projector=Projector.spec(text.width),
            back_projector=Projector.spec(text.width),
            config=config,
        )

    def code(self, choice: Float[Array, "*B K"]) -> Float[Array, "*B D"]:
        """Codebook row of a (possibly straight-through) one-hot choice."""
        return choice @ self.codebook.astype(choice.dtype)

    def look_up(self, action: Int[Array, "*B"]) -> Float[Array, "*B D"]:
        """Codebook row of an action index."""
        return jnp.take(self.codebook, action, axis=0)

    def action_input(
        self, states: Float[Array, "*B D"], has_image: Bool[Array, "*#B"] | None, project: bool = True
    ) -> Float[Array, "*B D"]:
        """What inverse, policy and merge read: e where the row has an image, mu_P(e) where it has not.

        `has_image` broadcasts against the leading dimensions of `states`; None: every row has one. `project` False is
        the ablation without projector (and the released code's generation).
        """
        if has_image is None or not project:
            return states
        return jnp.where(has_image[..., None], states, self.projector.mean(states))
