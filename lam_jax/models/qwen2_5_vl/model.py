"""Qwen2.5-VL: a windowed vision tower, biases on queries, keys and values, chunked M-RoPE.

Legend: B rows, L length, M picture tokens of a row, D text width.
"""

from jaxtyping import Array, Float, Int

from lam_jax.models.inputs import Batch
from lam_jax.models.qwen2_5_vl.config import QwenConfig
from lam_jax.models.qwen2_5_vl.vision import VisionTower
from lam_jax.models.vision_language import VisionLanguageModel
from lam_jax.nn.rope import Rotary, multimodal_rotary
from lam_jax.nn.stack import Remat


class QwenVL(VisionLanguageModel):
    """A Qwen2.5-VL."""

    @classmethod
    def tower(cls, config: QwenConfig) -> VisionTower:
        """Specs of the vision tower."""
        return VisionTower.spec(config.vision)

    def rotary(self, positions: Int[Array, "*B 3 L"]) -> Rotary:
        """Rotary embedding of M-RoPE positions."""
        text = self.config.text
        return multimodal_rotary(positions, text.head_dim, text.rope_theta, text.mrope_sections)

    def see(self, batch: Batch, remat: Remat, frozen: bool) -> tuple[Float[Array, "B M D"], None]:
        """Embeddings of the pictures' tokens; nothing is added later."""
        return self.vision(batch.images, self.config.dtype, remat, frozen), None
