"""Qwen3-VL's vision tower on fixed shapes: every block sees its whole picture; some blocks' states become features.

Legend: B rows, P patches, D vision width, H heads, M = P / merge^2 tokens, E feature layers, O text width.
"""

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from lam_jax.models.inputs import Images
from lam_jax.models.qwen3_vl.config import VisionConfig
from lam_jax.nn.attention import attention
from lam_jax.nn.axes import ANY, constrain, constrain_rows
from lam_jax.nn.layers import MLP, LayerNorm, Linear
from lam_jax.nn.rope import Rotary, grid_rotary
from lam_jax.nn.stack import Remat, fold_layers
from lam_jax.nn.weight import Param, Weight, stack


class VisionBlock(struct.PyTreeNode):
    """Pre-norm block; query, key and value come from one fused map, all maps have biases."""

    attention_norm: LayerNorm
    qkv: Linear
    output: Linear
    mlp_norm: LayerNorm
    mlp: MLP
    heads: int = struct.field(pytree_node=False)

    @classmethod
    def spec(cls, config: VisionConfig) -> "VisionBlock":
        """Specs of one block."""
        return cls(
            attention_norm=LayerNorm.spec(config.width),
            # As in Qwen2.5-VL: shards of the fused map would not line up with heads.
            qkv=Linear.spec(config.width, 3 * config.width, ("embed", None), bias=True),
            output=Linear.spec(config.width, config.width, ("vision_heads", "embed"), True, (config.heads, None)),
            mlp_norm=LayerNorm.spec(config.width),
            mlp=MLP.spec(config.width, config.hidden, config.width, "vision_mlp", tanh=True),
            heads=config.heads,
        )

    def __call__(self, x: Float[Array, "B P D"], rotary: Rotary, real: Bool[Array, "B P P"]) -> Float[Array, "B P D"]:
        """Patches attend where `real` says."""
        qkv = self.qkv(self.attention_norm(x)).reshape(*x.shape[:-1], 3, self.heads, -1)
        q, k, v = (constrain_rows(jnp.squeeze(x, 2), "vision_heads", None) for x in jnp.split(qkv, 3, axis=2))
        x = x + self.output(attention(rotary(q), rotary(k), v, real).reshape(x.shape))
        return x + self.mlp(self.mlp_norm(x))


class Merger(struct.PyTreeNode):
    """Merge groups to embeddings; the norm is over each patch, or over the group's patches together."""

    norm: LayerNorm
    mlp: MLP
    group: int = struct.field(pytree_node=False)  # patches

    @classmethod
    def spec(cls, config: VisionConfig, over_group: bool) -> "Merger":
        """Specs."""
        joined = config.width * config.merge_patches
        return cls(
            norm=LayerNorm.spec(joined if over_group else config.width),
            mlp=MLP.spec(joined, joined, config.out_width, "vision_mlp"),
            group=config.merge_patches,
        )

    def __call__(self, x: Float[Array, "B P D"]) -> Float[Array, "B M O"]:
        """One embedding for each group of neighbours."""
        over_group = self.norm.scale.shape[-1] != x.shape[-1]
        x = x if over_group else self.norm(x)
        x = x.reshape(x.shape[0], x.shape[1] // self.group, -1)
        return self.mlp(self.norm(x) if over_group else x)


class VisionTower(struct.PyTreeNode):
    """Patches to text-width embeddings, one per merge group, and as many features from each of some blocks."""

    patch_embed: Linear
    table: Param  # [side^2, D], learned positions
    blocks: VisionBlock
    merger: Merger
    features: Param  # Mergers, stacked, one for each of the feature layers; None: there are none
    config: VisionConfig = struct.field(pytree_node=False)

    @classmethod
    def spec(cls, config: VisionConfig) -> "VisionTower":
        """Specs of the whole tower."""
        layers = len(config.deepstack_layers)
        return cls(
            patch_embed=Linear.spec(config.patch_size, config.width, (None, "embed"), bias=True),
            # Looked up at places that lie on other shards than its width would: small enough to be whole everywhere.
            table=Weight((config.table_side**2, config.width), (None, None)),
            blocks=stack(VisionBlock.spec(config), config.layers),
            merger=Merger.spec(config, over_group=False),
            features=stack(Merger.spec(config, over_group=True), layers) if layers else None,
            config=config,
        )

    def __call__(
        self, images: Images, dtype: jnp.dtype, remat: Remat = False, frozen: bool = False
    ) -> tuple[Float[Array, "B M O"], Float[Array, "E B M O"] | None]:
        """Embeddings and features of all merge groups in patch order; those of padding are meaningless, but finite."""
        config = self.config
        x = self.patch_embed(images.patches.astype(dtype))
        x = constrain_rows(x + self.places(images.table_index, images.table_weight).astype(dtype))
        rotary = grid_rotary(jnp.maximum(images.patch_hw, 0), config.width // config.heads)
        # Attention is within an image, not across the images of a row.
        real = (images.image_id[:, :, None] == images.image_id[:, None, :]) & (images.image_id >= 0)[:, None, :]
        kept, slots = self._room(x)

        def step(carry, block, slot):
            x, kept = carry
            x = constrain_rows(block(x, rotary, real))
            return (x, self._keep(kept, x, slot)), None

        (x, kept), _ = fold_layers(step, (x, kept), self.blocks, slots, remat=remat, frozen=frozen)
        # Left alone they would lie in shards of their width, and be gathered for all rows where they are taken up.
        embeds = constrain_rows(self.merger(x))
        if self.features is None:
            return embeds, None
        features = jax.vmap(lambda merger, x: merger(x))(self.features, kept[:-1])
        return embeds, constrain(features, None, "batch", None, None)

    def places(self, index: Int[Array, "B P 4"], weight: Float[Array, "B P 4"]) -> Float[Array, "B P D"]:
        """What the learned table says of each patch's place, in float32; nothing of padding."""
        entries = jnp.take(self.table, jnp.maximum(index, 0), axis=0).astype(jnp.float32)
        return jnp.sum(entries * weight[..., None], axis=2)

    def _room(self, x: Array) -> tuple[Array, Int[Array, " layers"]]:
        """Room for the states of the feature layers, and each block's slot in it; the last slot is for all others.

        The states of all blocks, of which only these are read, would be many times as much.
        """
        config = self.config
        count = len(config.deepstack_layers)
        slots = jnp.full(config.layers, count, jnp.int32)
        if count:
            slots = slots.at[jnp.array(config.deepstack_layers)].set(jnp.arange(count, dtype=jnp.int32))
        return jnp.zeros((count + 1 if count else 0, *x.shape), x.dtype), slots

    def _keep(self, kept: Array, x: Array, slot: Int[Array, ""]) -> Array:
        if not kept.shape[0]:
            return kept
        kept = jax.lax.dynamic_update_index_in_dim(kept, x, slot, axis=0)
        return constrain(kept, None, "batch", *(ANY,) * (x.ndim - 1))
