"""Qwen3-VL: norms on the heads of queries and keys, interleaved M-RoPE, DeepStack.

Legend: B rows, L length, M picture tokens of a row, E blocks, D text width.
"""

from jaxtyping import Array, Float, Int

from lam_jax.models.inputs import Batch
from lam_jax.models.qwen3_vl.config import Qwen3VLConfig
from lam_jax.models.qwen3_vl.vision import VisionTower
from lam_jax.models.vision_language import VisionLanguageModel
from lam_jax.nn.rope import Rotary, interleaved_rotary
from lam_jax.nn.stack import Remat


class Qwen3VL(VisionLanguageModel):
    """A Qwen3-VL."""

    @classmethod
    def tower(cls, config: Qwen3VLConfig) -> VisionTower:
        """Specs of the vision tower."""
        return VisionTower.spec(config.vision)

    def rotary(self, positions: Int[Array, "*B 3 L"]) -> Rotary:
        """Rotary embedding of M-RoPE positions."""
        text = self.config.text
        return interleaved_rotary(positions, text.head_dim, text.rope_theta, text.mrope_sections)

    def see(
        self, batch: Batch, remat: Remat, frozen: bool
    ) -> tuple[Float[Array, "B M D"], Float[Array, "E B M D"] | None]:
        """Embeddings of the pictures' tokens, and what DeepStack adds to them after the first blocks."""
        return self.vision(batch.images, self.config.dtype, remat, frozen)
