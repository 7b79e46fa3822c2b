"""What the families' models share: token embeddings, a stack of decoder blocks, the head; where a picture's tokens go.

Legend: B rows, L length, M picture tokens of a row, E blocks, D text width, V vocabulary, N prompts, G samples of a
prompt, P prompt length, T completion length.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from lam_jax.models.inputs import Batch
from lam_jax.nn import block, kv_cache
from lam_jax.nn.axes import constrain, constrain_last, constrain_rows, gathered
from lam_jax.nn.block import DecoderBlock, KeyValue
from lam_jax.nn.deepstack import DeepStack
from lam_jax.nn.kv_cache import KVCache, decoding_layers
from lam_jax.nn.layers import Linear, Map, RMSNorm
from lam_jax.nn.layout import layout
from lam_jax.nn.rope import Rotary
from lam_jax.nn.stack import Layers, Remat
from lam_jax.nn.stored import Storage, StoredLinear, stored
from lam_jax.nn.vocabulary import look_up
from lam_jax.nn.weight import Param, Weight


class VisionLanguageModel(struct.PyTreeNode):
    """Weights and pure functions; see `lam_jax.models.backbone.Backbone`. `lm_head` is None when tied.

    A family says in `spec` what its weights are, in `rotary` how positions turn, and in `see` what its tower makes of
    pictures.
    """

    vision: Any  # the family's tower
    embedding: Param  # [V, D]
    blocks: Layers  # of DecoderBlock
    norm: RMSNorm
    lm_head: Param  # [V, D] or None
    config: Any = struct.field(pytree_node=False)  # the family's
    packed_head: Map = None  # of `table`, in decoding, where the layout packs it or it is held in fewer bits

    @classmethod
    def spec(cls, config: Any) -> Any:
        """Specs of all weights."""
        text = config.text
        table = Weight((text.vocab_size, text.width), ("vocab", "embed"))
        return cls(
            vision=cls.tower(config),
            embedding=table,
            blocks=DecoderBlock.stacked(text.layers, **text.block_sizes),
            norm=RMSNorm.spec(text.width, text.norm_epsilon),
            lm_head=None if text.tied else table,
            config=config,
        )

    @classmethod
    def tower(cls, config: Any) -> Any:
        """Specs of the vision tower."""
        raise NotImplementedError

    def rotary(self, positions: Int[Array, "*B 3 L"]) -> Rotary:
        """Rotary embedding of M-RoPE positions."""
        raise NotImplementedError

    def see(
        self, batch: Batch, remat: Remat, frozen: bool
    ) -> tuple[Float[Array, "B M D"], Float[Array, "E B M D"] | None]:
        """Embeddings of the pictures' tokens in order, padding last; and what is added after the first blocks."""
        raise NotImplementedError

    @property
    def table(self) -> Param:
        """[V, D], what the states are multiplied with: the head, or the embedding it is tied to."""
        return self.embedding if self.lm_head is None else self.lm_head

    def embed(self, tokens: Int[Array, "*B L"]) -> Float[Array, "*B L D"]:
        """Plain token embeddings in the compute dtype. Looking padding up trains nothing (torch's `padding_idx`)."""
        x = look_up(self.embedding, tokens, self.config.dtype)
        return jnp.where((tokens == self.config.pad_id)[..., None], jax.lax.stop_gradient(x), x)

    def embed_batch(self, batch: Batch, remat: Remat = False, frozen: bool = False) -> Float[Array, "B L D"]:
        """Token embeddings with those of the pictures in the place of their tokens."""
        return self._inputs(batch, remat, frozen)[0]

    def _inputs(
        self, batch: Batch, remat: Remat = False, frozen: bool = False
    ) -> tuple[Float[Array, "B L D"], DeepStack | None]:
        """What the first block reads, and what is added after the first blocks."""
        x = constrain_rows(self.embed(batch.tokens))
        if batch.images is None:
            return x, None
        seen, features = self.see(batch, remat, frozen)
        is_image = batch.tokens == self.config.image_id
        # The i-th image token of a row takes the i-th merge group: images are stored in order, padding last.
        group = jnp.clip(jnp.cumsum(is_image, axis=1, dtype=jnp.int32) - 1, 0, seen.shape[1] - 1)
        filled = jnp.take_along_axis(seen, group[:, :, None], axis=1)
        x = constrain_rows(jnp.where(is_image[:, :, None], filled, x))
        return x, None if features is None else DeepStack(features, group, is_image)

    def hidden(self, batch: Batch, remat: Remat = False, frozen: bool = False) -> Float[Array, "B L D"]:
        """States after the last block, before the final norm."""
        x, deepstack = self._inputs(batch, remat, frozen)
        rotary = self.rotary(batch.positions)
        return block.run(self.blocks, x, rotary, batch.mask, remat=remat, frozen=frozen, deepstack=deepstack)

    def states(self, batch: Batch, remat: Remat = False, frozen: bool = False) -> Float[Array, "B L D"]:
        """e_t of method.md section 2: states after the final norm. `frozen`: no gradient will be asked for."""
        return self.norm(self.hidden(batch, remat, frozen))

    def logits(self, states: Float[Array, "*B D"]) -> Float[Array, "*B V"]:
        """float32 next-token logits of normed states."""
        states = gathered(states) if states.ndim == 3 else states  # of samples, where there are wide axes
        if self.packed_head is not None:
            return constrain_last(self.packed_head.wide(states), "vocab")
        table = constrain(self.table.astype(states.dtype), "vocab", None)
        logits = jnp.einsum("...d,vd->...v", states, table, preferred_element_type=jnp.float32)
        return constrain_last(logits, "vocab")

    def prefill(self, batch: Batch) -> tuple[Float[Array, "N P D"], KeyValue]:
        """Pre-norm states of prompts and the keys and values of every block."""
        x, deepstack = self._inputs(batch, frozen=True)
        return block.prefill(self.blocks, x, self.rotary(batch.positions), batch.mask, deepstack)

    def decoding(self, blocks: Storage = "same", head: Storage = "same") -> Any:
        """The same model, laid out for decode steps, the kernels of its blocks and of its head held so."""
        pack = layout().pack
        linear = stored(Linear(constrain(self.table, "vocab", None).T), head)
        found = None if pack is None else pack(linear)
        if found is None and isinstance(linear, StoredLinear):
            found = linear
        return self.replace(blocks=decoding_layers(self.blocks, blocks), packed_head=found)

    def decode(
        self, cache: KVCache, tokens: Int[Array, "N G 1"], rotary: Rotary, step: Int[Array, ""]
    ) -> tuple[Float[Array, "N G 1 D"], KVCache]:
        """Pre-norm states of one more token per sample."""
        return kv_cache.decode(self.blocks, cache, self.embed(tokens), rotary, step)

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
        frozen = self.replace(vision=jax.lax.stop_gradient(self.vision))
        prompt, deepstack = frozen._inputs(prompts, frozen=True)
        sample = self.embed(tokens)
        return block.run_shared(
            self.blocks,
            prompt,
            sample,
            self.rotary(prompts.positions),
            self.rotary(positions),
            prompts.mask,
            mask,
            remat=remat,
            deepstack=deepstack,
        )

    def valid_tokens(self, tokens: Int[Array, "*B L"], mask: Bool[Array, "*B L"]) -> Bool[Array, "*B L"]:
        """valid(t) of method.md section 3."""
        marks = (self.config.pad_id, self.config.vision_start_id, self.config.vision_end_id, self.config.image_id)
        ok = mask
        for mark in marks:
            ok = ok & (tokens != mark)
        return ok
