"""The stages of method.md section 3 as values, a file each; `step` turns one into a training step."""

from collections.abc import Mapping

from lam_jax.train.stages.cloning import CLONING, cloning_loss
from lam_jax.train.stages.inverse import INVERSE, inverse_loss
from lam_jax.train.stages.joint import JOINT, joint_loss
from lam_jax.train.stages.projector import PROJECTOR, projector_loss
from lam_jax.train.stages.sft import (
    SFT_CLONE,
    SFT_LATENT,
    SFT_LEARN,
    SFT_PREDICT,
    SFT_TOKEN,
    latent_sft_loss,
    token_sft_loss,
)
from lam_jax.train.stages.stage import MixedBatch, Stage
from lam_jax.train.stages.step import Step

STAGES: Mapping[str, Stage] = {
    stage.name: stage for stage in (INVERSE, PROJECTOR, JOINT, CLONING, SFT_LATENT, SFT_TOKEN)
}

__all__ = [
    "SFT_CLONE",
    "SFT_LATENT",
    "SFT_LEARN",
    "SFT_PREDICT",
    "SFT_TOKEN",
    "STAGES",
    "MixedBatch",
    "Stage",
    "Step",
    "cloning_loss",
    "inverse_loss",
    "joint_loss",
    "latent_sft_loss",
    "projector_loss",
    "token_sft_loss",
]
