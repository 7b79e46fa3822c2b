"""The ladder's rungs that are Qwen3-VL's own. P patches of a row."""

import jax
import jax.numpy as jnp
import numpy as np

from lam_jax.nn.rope import grid_rotary
from tests.parity.ladder import BLOCK, DEEP, TIGHT, Ladder, Rung


class Qwen3Ladder(Ladder):
    """Another vision tower."""

    def vision_rungs(self) -> list[Rung]:
        tower, arrays, images = self.model.vision, self.arrays, self.images
        config, real = self.model.config.vision, self.real_patches

        def rung(name: str, ours: jax.Array, tolerance: float) -> Rung:
            return Rung(name, np.asarray(ours)[real], arrays[name], tolerance)

        rotary = grid_rotary(jnp.maximum(images.patch_hw, 0), config.width // config.heads)
        places = tower.places(images.table_index, images.table_weight)
        x = tower.patch_embed(images.patches)
        rungs = [
            rung("vision/cos", rotary.cos, TIGHT),
            rung("vision/sin", rotary.sin, TIGHT),
            rung("vision/places", places, TIGHT),
            rung("vision/patches", x, BLOCK),
        ]
        same = (images.image_id[:, :, None] == images.image_id[:, None, :]) & (images.image_id >= 0)[:, None, :]
        x = x + places
        features = []
        for index in range(config.layers):
            block = jax.tree.map(lambda w, i=index: w[i], tower.blocks)
            rungs.append(rung(f"vision/block_{index}", block(x, rotary, same), BLOCK))
            x = self.by_row(arrays[f"vision/block_{index}"], real)
            if index in config.deepstack_layers:
                number = len(features)
                merger = jax.tree.map(lambda w, i=number: w[i], tower.features)
                features.append(merger(x))
        embeds, whole = tower(images, jnp.dtype("float32"))
        groups = real[:, :: config.merge_patches]
        pairs = [("vision/embeds", tower.merger(x), BLOCK), ("vision/embeds", embeds, DEEP)]
        for number, feature in enumerate(features):
            pairs += [
                (f"vision/features_{number}", feature, BLOCK),
                (f"vision/features_{number}", whole[number], DEEP),
            ]
        return rungs + [Rung(name, np.asarray(ours)[groups], arrays[name], error) for name, ours, error in pairs]
