"""A mesh for a pod when none is asked for."""

import math

from lam_jax.aot.chips import Chip
from lam_jax.latent.config import LATENT_PRESETS
from lam_jax.nn.weight import count
from lam_jax.qwen.config import QwenConfig
from lam_jax.rollout.agent import Agent

# Share of a chip's memory that the rollout copy of the weights may take; the rest is for training and activations.
ROLLOUT_SHARE = 0.4


def choose_mesh(preset: str, config: QwenConfig, chip: Chip, chips: int, samples: int) -> tuple[int, int, int]:
    """(data, fsdp, tensor) for a slice.

    Decoding holds whole weights on every `tensor` group, so `tensor` is the smallest power of two at which they leave
    room for the rest. `fsdp` carries a prompt's samples in rollouts: the largest power of two that divides them and
    leaves two data shards; `data` takes what remains.

    Raises:
        ValueError: no power of two of chips holds the weights.
    """
    weights = count(Agent.spec(config, LATENT_PRESETS[preset])) * config.dtype.itemsize
    tensor = 1
    while weights / tensor > ROLLOUT_SHARE * chip.hbm:
        tensor *= 2
        if chips % tensor or config.text.heads % tensor:
            raise ValueError(
                f"{preset}: its weights for rollouts ({weights / 2**30:.1f} GiB) do not fit {chips} chips of "
                f"{chip.hbm / 2**30:.1f} GiB by sharding over `tensor` alone. Choose a larger slice or chip."
            )
    rest = chips // tensor
    fsdp = math.gcd(samples, 2 ** (rest.bit_length() - 1))
    while fsdp > 1 and (rest % fsdp or rest // fsdp < 2):
        fsdp //= 2
    return rest // fsdp, fsdp, tensor
