"""What the rest of the library asks of a backbone, whatever its family. docs/models.md says how to add one.

Legend: B rows, L length, D width, V vocabulary, N prompts, G samples of a prompt, P prompt length, T completion length.
"""

from typing import Any, Protocol, runtime_checkable

from jaxtyping import Array, Bool, Float, Int

from lam_jax.models.config import BackboneConfig
from lam_jax.models.inputs import Batch
from lam_jax.nn.block import KeyValue
from lam_jax.nn.kv_cache import KVCache
from lam_jax.nn.rope import Rotary
from lam_jax.nn.stack import Layers, Remat
from lam_jax.nn.stored import Storage
from lam_jax.nn.weight import Param


@runtime_checkable
class Backbone(Protocol):
    """A vision-language model: a pytree of weights, or of their specs, whose methods are pure functions of arrays.

    Its paths are part of the protocol too: "vision", "embedding" and "lm_head" (tables of the vocabulary), "blocks" and
    "norm" are what stages train (`train/stages/stage.py`), and what checkpoints of ours call the weights.
    """

    @property
    def config(self) -> BackboneConfig:
        """Sizes and special tokens."""
        ...

    @property
    def blocks(self) -> Layers:
        """The decoder's blocks: `DecoderBlock`s, stacked."""
        ...

    @property
    def norm(self) -> Any:
        """The final norm: what it makes of a state is e_t of method.md section 2."""
        ...

    @property
    def table(self) -> Param:
        """[V, D], what normed states are multiplied with: the output head, or the embedding it is tied to."""
        ...

    def rotary(self, positions: Int[Array, "*B 3 L"]) -> Rotary:
        """Rotary embedding of M-RoPE positions; the latent modules' blocks get the same."""
        ...

    def embed(self, tokens: Int[Array, "*B L"]) -> Float[Array, "*B L D"]:
        """Plain token embeddings in the compute dtype."""
        ...

    def hidden(self, batch: Batch, remat: Remat = False, frozen: bool = False) -> Float[Array, "B L D"]:
        """States after the last block, before the final norm. `frozen`: no gradient will be asked for."""
        ...

    def states(self, batch: Batch, remat: Remat = False, frozen: bool = False) -> Float[Array, "B L D"]:
        """States after the final norm. With `batch.without_images()` nothing of a picture may reach them."""
        ...

    def logits(self, states: Float[Array, "*B D"]) -> Float[Array, "*B V"]:
        """float32 next-token logits of normed states."""
        ...

    def prefill(self, batch: Batch) -> tuple[Float[Array, "N P D"], KeyValue]:
        """Pre-norm states of prompts, and the keys and values of every block."""
        ...

    def decoding(self, blocks: Storage = "same", head: Storage = "same") -> "Backbone":
        """The same model, laid out for decode steps, the kernels of its blocks and of its head held so."""
        ...

    def decode(
        self, cache: KVCache, tokens: Int[Array, "N G 1"], rotary: Rotary, step: Int[Array, ""]
    ) -> tuple[Float[Array, "N G 1 D"], KVCache]:
        """Pre-norm states of one more token per sample."""
        ...

    def continued(
        self,
        prompts: Batch,
        tokens: Int[Array, "N G T"],
        positions: Int[Array, "N G 3 T"],
        mask: Bool[Array, "N G T"],
        remat: Remat = False,
    ) -> tuple[Float[Array, "N D"], Float[Array, "N G T D"]]:
        """Pre-norm states of each prompt's last position and of the tokens of G continuations.

        The prompt is run once for all of them; the vision tower is not differentiated.
        """
        ...

    def replace(self, **changes: Any) -> Any:
        """The same model with other fields."""
        ...
