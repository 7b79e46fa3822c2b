"""Qwen2.5-VL's vision tower on fixed shapes: windowed blocks gather patches, attend in a window and scatter back.

Legend: B rows, P patches, W windows, S patches of a window, D vision width, H heads, M = P / merge^2 tokens,
O text width.
"""

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from lam_jax.models.inputs import Images
from lam_jax.models.qwen2_5_vl.config import VisionConfig
from lam_jax.nn.attention import attention
from lam_jax.nn.axes import constrain_rows
from lam_jax.nn.layers import GatedMLP, Linear, RMSNorm
from lam_jax.nn.rope import Rotary, grid_rotary
from lam_jax.nn.stack import Remat, fold_layers
from lam_jax.nn.weight import stack


class VisionBlock(struct.PyTreeNode):
    """Pre-norm block; query, key and value come from one fused map, all maps have biases."""

    attention_norm: RMSNorm
    qkv: Linear
    output: Linear
    mlp_norm: RMSNorm
    mlp: GatedMLP
    heads: int = struct.field(pytree_node=False)

    @classmethod
    def spec(cls, config: VisionConfig) -> "VisionBlock":
        """Specs of one block."""
        return cls(
            attention_norm=RMSNorm.spec(config.width),
            # Shards of the fused map would not line up with heads: it is the one map that `tensor` does not split.
            qkv=Linear.spec(config.width, 3 * config.width, ("embed", None), bias=True),
            output=Linear.spec(config.width, config.width, ("vision_heads", "embed"), True, (config.heads, None)),
            mlp_norm=RMSNorm.spec(config.width),
            mlp=GatedMLP.spec(config.width, config.hidden, bias=True, axis="vision_mlp"),
            heads=config.heads,
        )

    def __call__(
        self, x: Float[Array, "B P D"], rotary: Rotary, real: Bool[Array, "B P P"], windows: "Windows", full: Array
    ) -> Float[Array, "B P D"]:
        """`full` is a traced bool: attend over the whole image (`real`) or inside windows."""
        qkv = self.qkv(self.attention_norm(x)).reshape(*x.shape[:-1], 3, self.heads, -1)
        q, k, v = (constrain_rows(jnp.squeeze(x, 2), "vision_heads", None) for x in jnp.split(qkv, 3, axis=2))
        q, k = rotary(q), rotary(k)
        y = jax.lax.cond(full, lambda: attention(q, k, v, real), lambda: windows.attention(q, k, v))
        x = x + self.output(y.reshape(x.shape))
        return x + self.mlp(self.mlp_norm(x))


class Windows(struct.PyTreeNode):
    """The gather into windows and its inverse."""

    slots: Int[Array, "B W S"]
    home: Int[Array, "B P"]  # each patch's place in the flattened windows

    @classmethod
    def create(cls, slots: Int[Array, "B W S"], patches: int) -> "Windows":
        """Inverts the slots once for all layers; padding slots fall off the end."""
        rows, flat = slots.shape[0], slots.reshape(slots.shape[0], -1)
        place = jnp.broadcast_to(jnp.arange(flat.shape[1], dtype=jnp.int32)[None], flat.shape)
        target = jnp.where(flat < 0, patches, flat)
        home = jnp.zeros((rows, patches), jnp.int32)
        home = jax.vmap(lambda h, t, p: h.at[t].set(p, mode="drop"))(home, target, place)
        return cls(slots, home)

    def attention(
        self, q: Float[Array, "B P H D"], k: Float[Array, "B P H D"], v: Float[Array, "B P H D"]
    ) -> Float[Array, "B P H D"]:
        """Attention of every patch over its own window."""
        rows, count, size = self.slots.shape
        flat = jnp.maximum(self.slots, 0).reshape(rows, -1)
        q, k, v = (
            jnp.take_along_axis(x, flat[:, :, None, None], axis=1).reshape(rows, count, size, *x.shape[2:])
            for x in (q, k, v)
        )
        keep = jnp.broadcast_to((self.slots >= 0)[:, :, None, :], (rows, count, size, size))
        y = attention(q, k, v, keep).reshape(rows, count * size, *q.shape[3:])
        return jnp.take_along_axis(y, self.home[:, :, None, None], axis=1)


class VisionTower(struct.PyTreeNode):
    """Patches to text-width embeddings, one per merge group."""

    patch_embed: Linear
    blocks: VisionBlock
    merger_norm: RMSNorm
    merger_up: Linear
    merger_down: Linear
    config: VisionConfig = struct.field(pytree_node=False)

    @classmethod
    def spec(cls, config: VisionConfig) -> "VisionTower":
        """Specs of the whole tower."""
        joined = config.width * config.merge_patches
        return cls(
            patch_embed=Linear.spec(config.patch_size, config.width, (None, "embed")),
            blocks=stack(VisionBlock.spec(config), config.layers),
            merger_norm=RMSNorm.spec(config.width),
            merger_up=Linear.spec(joined, joined, ("embed", "vision_mlp"), bias=True),
            merger_down=Linear.spec(joined, config.out_width, ("vision_mlp", "embed"), bias=True),
            config=config,
        )

    def __call__(
        self, images: Images, dtype: jnp.dtype, remat: Remat = False, frozen: bool = False
    ) -> Float[Array, "B M O"]:
        """Embeddings of all merge groups in patch order; those of padding patches are meaningless, but finite."""
        config = self.config
        x = constrain_rows(self.patch_embed(images.patches.astype(dtype)))
        rotary = grid_rotary(jnp.maximum(images.patch_hw, 0), config.width // config.heads)
        # Full attention is within an image, not across the images of a row.
        real = (images.image_id[:, :, None] == images.image_id[:, None, :]) & (images.image_id >= 0)[:, None, :]
        windows = Windows.create(images.window_slots, x.shape[1])
        full = jnp.zeros(config.layers, bool).at[jnp.array(config.full_layers, jnp.int32)].set(True)

        def step(x, block, is_full):
            return constrain_rows(block(x, rotary, real, windows, is_full)), None

        x, _ = fold_layers(step, x, self.blocks, full, remat=remat, frozen=frozen)
        x = self.merger_norm(x).reshape(x.shape[0], x.shape[1] // config.merge_patches, -1)
        return self.merger_down(jax.nn.gelu(self.merger_up(x), approximate=False))
