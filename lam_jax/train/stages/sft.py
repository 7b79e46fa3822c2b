"""Stage 5, supervised fine-tuning on task rows, in the latent and in the token action space (method.md section 3).

Latent recipes: `released` predicts with the policy's own codes; `guided` predicts response tokens with the inverse
model's codes (pass A) and then clones the policy on the new backbone (pass B); `joint` does both in one step.
"""

from collections.abc import Mapping
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lam_jax.latent.agent import Agent
from lam_jax.losses import cloning, next_token, target_mask
from lam_jax.models.inputs import Batch
from lam_jax.models.qwen2_5_vl.config import QwenConfig
from lam_jax.train.method import Method
from lam_jax.train.partition import Choice
from lam_jax.train.stages.inverse_pass import inverse_logits
from lam_jax.train.stages.stage import Stage, backbone_top, whole

Pass = Literal["released", "predict", "clone", "joint"]


def latent_sft_loss(
    agent: Agent, batch: Batch, noise: Array | None, method: Method, part: Pass | None = None
) -> tuple[Float[Array, ""], dict[str, Array]]:
    """Loss and metrics of one latent recipe; no randomness.

    Args:
        agent: the merge reads e with gradient; inverse and policy read `stop_grad(e)`; codes are constants.
        batch: whole chats.
        noise: not used.
        method: `method.sft` names the recipe unless `part` does.
        part: `predict` and `clone` are passes A and B of the guided recipe.

    Raises:
        ValueError: the guided recipe without its pass.
    """
    if part is None and method.sft == "guided":
        raise ValueError("The guided recipe has two passes: call it with part='predict', then with part='clone'.")
    part = part or ("joint" if method.sft == "joint" else "released")
    states = agent.backbone.states(batch, method.remat)
    x = agent.action_input(states, batch.has_image, method.acting)
    fixed = jax.lax.stop_gradient(x)
    rotary = agent.backbone.rotary(batch.positions)
    response = batch.response if part != "released" or method.response_only else None
    keep = target_mask(batch.valid, batch.mask, response, method.after_padding)
    policy_logits = agent.latent.policy(fixed, rotary, batch.mask, method.remat)
    codes = policy_logits if part == "released" else jax.lax.stop_gradient(inverse_logits(agent, fixed, batch))
    action = jnp.argmax(codes, axis=-1)
    loss, metrics = jnp.float32(0.0), {}
    if part != "clone":
        out = agent.read(x, jax.lax.stop_gradient(agent.latent.look_up(action)), method.acting)
        ce = next_token(out, agent.table, batch.tokens, keep)
        loss, metrics = ce.value, {"ce": ce.value}
    if part in ("clone", "joint"):
        clone, accuracy = cloning(policy_logits, action, keep)
        loss = loss + clone.value
        metrics |= {"cloning": clone.value, "accuracy": accuracy.value}
    return loss, {"loss": loss, **metrics}


def token_sft_loss(
    agent: Agent, batch: Batch, noise: Array | None, method: Method
) -> tuple[Float[Array, ""], dict[str, Array]]:
    """Plain next-token loss of the token baseline on the same rows and the same targets as the latent recipe."""
    response = batch.response if method.sft != "released" or method.response_only else None
    keep = target_mask(batch.valid, batch.mask, response, method.after_padding)
    ce = next_token(agent.backbone.states(batch, method.remat), agent.table, batch.tokens, keep)
    return ce.value, {"loss": ce.value, "ce": ce.value}


def predict_loss(
    agent: Agent, batch: Batch, noise: Array | None, method: Method
) -> tuple[Float[Array, ""], dict[str, Array]]:
    """Pass A of the guided recipe."""
    return latent_sft_loss(agent, batch, noise, method, part="predict")


def clone_loss(
    agent: Agent, batch: Batch, noise: Array | None, method: Method
) -> tuple[Float[Array, ""], dict[str, Array]]:
    """Pass B of the guided recipe."""
    return latent_sft_loss(agent, batch, noise, method, part="clone")


def backbone_trains(config: QwenConfig, method: Method) -> Mapping[str, Choice]:
    """Vision tower and the top of the backbone."""
    return {"backbone.vision": True, **backbone_top(config, method)}


def latent_trains(config: QwenConfig, method: Method) -> Mapping[str, Choice]:
    """The same, and the policy where it is cloned in the same step."""
    policy: dict[str, Choice] = {"latent.policy": True} if method.sft == "joint" else {}
    return {**backbone_trains(config, method), **policy}


SFT_LATENT = Stage("sft_latent", latent_sft_loss, latent_trains)
SFT_TOKEN = Stage("sft_token", token_sft_loss, backbone_trains)
SFT_PREDICT = Stage("sft_predict", predict_loss, backbone_trains)
SFT_CLONE = Stage("sft_clone", clone_loss, whole("latent.policy"))
