"""State dicts of the released latent-action code, made up for tests; names and shapes are spelled out."""

import numpy as np

from lam_jax.latent.config import LatentConfig
from lam_jax.models.qwen2_5_vl.config import QwenConfig
from tests.formats import made_checkpoint


def shapes(config: QwenConfig, latent: LatentConfig) -> dict[str, tuple[int, ...]]:
    """All tensors, `lm_head.weight` included even where it is tied."""
    found = {made_checkpoint.today(name): shape for name, shape in made_checkpoint.shapes(config).items()}
    d, f, k, at = config.text.width, config.text.hidden, latent.codes, "model.language_model"
    block = {n: s for n, s in found.items() if n.startswith(f"{at}.layers.0.")}
    for kind, depth in (("inverse", latent.inverse_layers), ("policy", latent.policy_layers)):
        for i in range(depth):
            found |= {n.replace("layers.0", f"{kind}_layers.{i}"): shape for n, shape in block.items()}
        found |= {f"{at}.{kind}_norm.weight": (d,), f"{at}.{kind}_head.weight": (k, d)}
    found[f"{at}.action_code_book.weight"] = (d, k)
    for i in range(latent.merge_layers):
        merge = f"{at}.action_merge_layers.{i}"
        found |= {
            f"{merge}.fc_1.weight": (f, 2 * d),
            f"{merge}.fc_2.weight": (f, 2 * d),
            f"{merge}.proj.weight": (d, f),
        }
    for net in ("Text2TV_mu", "Text2TV_logvar", "TV2Text_mu", "TV2Text_logvar"):
        found |= {f"{at}.{net}.0.weight": (d // 2, d), f"{at}.{net}.0.bias": (d // 2,)}
        found |= {f"{at}.{net}.2.weight": (d, d // 2), f"{at}.{net}.2.bias": (d,)}
    return {**found, "lm_head.weight": (config.text.vocab_size, d)}


def tensors(config: QwenConfig, latent: LatentConfig) -> dict[str, np.ndarray]:
    """float32 tensors of random numbers; a tied head is the embedding."""
    random = np.random.default_rng(0)
    made = {name: random.normal(0, 0.1, s).astype(np.float32) for name, s in shapes(config, latent).items()}
    if config.text.tied:
        made["lm_head.weight"] = made["model.language_model.embed_tokens.weight"].copy()
    return made
