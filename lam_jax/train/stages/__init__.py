"""The stages of method.md section 3 as losses of an agent and a batch, a file each; `step` turns a loss into a step."""

from lam_jax.train.stages.cloning import cloning_loss
from lam_jax.train.stages.inverse import inverse_loss
from lam_jax.train.stages.joint import MixedBatch, joint_loss
from lam_jax.train.stages.projector import projector_loss
from lam_jax.train.stages.sft import latent_sft_loss, token_sft_loss
from lam_jax.train.stages.step import STAGES, Stage, make_step, trainable_parts

__all__ = [
    "STAGES",
    "MixedBatch",
    "Stage",
    "cloning_loss",
    "inverse_loss",
    "joint_loss",
    "latent_sft_loss",
    "make_step",
    "projector_loss",
    "token_sft_loss",
    "trainable_parts",
]
