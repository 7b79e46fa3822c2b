"""Every switch of the method in one value, and the named settings `default`, `paper` and `official` (method.md)."""

import dataclasses
import math
from typing import Literal, get_args

from lam_jax.latent.agent import Reading
from lam_jax.nn.stack import Remat, require_remat

SFTRecipe = Literal["released", "guided", "joint", "learn"]
Gumbel = Literal["on", "off", "annealed"]


@dataclasses.dataclass(frozen=True)
class Method:
    """What is computed in the stages.

    Attributes:
        learning: readout in stages 1 and 3 and in the monitor of 4.
        acting: readout in stages 5 and 6.
        generating: readout in rollouts and evaluation.
        entropy_weight: weight of R.
        nll_weight: weight of the projectors' likelihoods and of the cycle loss in stage 3.
        cycle: cycle-consistency loss on text-only rows (ablation switch).
        project: projector P on text-only rows (ablation switch).
        text_only: text-only data in stages 3 and 4 (ablation switch).
        after_padding: next-token targets whose predecessor is padding count.
        response_only: SFT `released` trains on assistant turns only.
        sft: recipe of stage 5, see method.md section 3.
        gumbel: noise of the straight-through choice in stages 1 and 3 (and 5 under `learn`): on, as published; off; or
            annealed, falling linearly from its full size at a stage's first step to none at its end.
        sft_blocks: backbone blocks that stage 5 and token RL train, from the top; None: 8/36 of the depth.
        train_norm: latent RL trains the backbone's final norm too.
        remat: stages recompute activations in the backward pass: the same numbers in less memory, for large models;
            "products": all but those of products with weights.
    """

    learning: Reading = dataclasses.field(default_factory=Reading)
    acting: Reading = dataclasses.field(default_factory=Reading)
    generating: Reading = dataclasses.field(default_factory=Reading)
    entropy_weight: float = 1e-3
    nll_weight: float = 1e-5
    cycle: bool = True
    project: bool = True
    text_only: bool = True
    after_padding: bool = False
    response_only: bool = False
    sft: SFTRecipe = "joint"
    gumbel: Gumbel = "on"
    sft_blocks: int | None = None
    train_norm: bool = False
    remat: Remat = False

    def __post_init__(self):
        if self.sft not in get_args(SFTRecipe):
            raise ValueError(f"Method.sft is {self.sft!r}, expected one of {get_args(SFTRecipe)}.")
        if self.gumbel not in get_args(Gumbel):
            raise ValueError(f"Method.gumbel is {self.gumbel!r}, expected one of {get_args(Gumbel)}.")
        require_remat("Method.remat", self.remat)
        if not self.project:
            for name in ("learning", "acting", "generating"):
                object.__setattr__(self, name, dataclasses.replace(getattr(self, name), project=False))

    def trained_blocks(self, layers: int) -> int:
        """Backbone blocks that stage 5 trains: the last 8 of Qwen2.5-VL-3B's 36, in proportion, at least one."""
        return self.sft_blocks or math.ceil(layers * 8 / 36)

    def with_readout(self, readout: str) -> "Method":
        """The same method with one readout everywhere."""
        readings = {
            n: dataclasses.replace(getattr(self, n), readout=readout) for n in ("learning", "acting", "generating")
        }
        return dataclasses.replace(self, **readings)


METHODS: dict[str, Method] = {
    "default": Method(),
    "paper": Method(sft="released", response_only=True),
    "official": Method(
        learning=Reading("delta"),
        acting=Reading("block"),
        generating=Reading("block", project=False),
        after_padding=True,
        sft="released",
        train_norm=True,
    ),
}
