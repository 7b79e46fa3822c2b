"""Stage 5, supervised fine-tuning on task rows, in the latent and in the token action space (method.md section 3).

Latent recipes: `released` predicts with the policy's own codes; `guided` predicts response tokens with the inverse
model's codes (pass A) and then clones the policy on the new backbone (pass B); `joint` does both in one step.
"""

from collections.abc import Mapping
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array

from lam_jax.latent.agent import Agent
from lam_jax.losses import cloning, next_token, target_mask
from lam_jax.models.inputs import Batch
from lam_jax.models.qwen2_5_vl.config import QwenConfig
from lam_jax.train.method import Method
from lam_jax.train.partition import Choice
from lam_jax.train.stages.inverse_pass import inverse_logits
from lam_jax.train.stages.objective import Objective, as_loss, plain
from lam_jax.train.stages.stage import Stage, backbone_top, whole

Pass = Literal["released", "predict", "clone", "joint"]


def latent_sft_objective(
    agent: Agent, batch: Batch, noise: Array | None, method: Method, part: Pass | None = None
) -> Objective:
    """What one latent recipe minimises; no randomness.

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
    means, metrics = {}, {}
    if part != "clone":
        out = agent.read(x, jax.lax.stop_gradient(agent.latent.look_up(action)), method.acting)
        means["ce"] = next_token(out, agent.table, batch.tokens, keep)
    if part in ("clone", "joint"):
        means["cloning"], metrics["accuracy"] = cloning(policy_logits, action, keep)
    return Objective(means, plain(*means), tuple((name, (1.0, name)) for name in means), metrics)


def token_sft_objective(agent: Agent, batch: Batch, noise: Array | None, method: Method) -> Objective:
    """Plain next-token loss of the token baseline on the same rows and the same targets as the latent recipe."""
    response = batch.response if method.sft != "released" or method.response_only else None
    keep = target_mask(batch.valid, batch.mask, response, method.after_padding)
    ce = next_token(agent.backbone.states(batch, method.remat), agent.table, batch.tokens, keep)
    return Objective({"ce": ce}, plain("ce"), (("ce", (1.0, "ce")),))


def predict_objective(agent: Agent, batch: Batch, noise: Array | None, method: Method) -> Objective:
    """Pass A of the guided recipe."""
    return latent_sft_objective(agent, batch, noise, method, part="predict")


def clone_objective(agent: Agent, batch: Batch, noise: Array | None, method: Method) -> Objective:
    """Pass B of the guided recipe."""
    return latent_sft_objective(agent, batch, noise, method, part="clone")


def backbone_trains(config: QwenConfig, method: Method) -> Mapping[str, Choice]:
    """Vision tower and the top of the backbone."""
    return {"backbone.vision": True, **backbone_top(config, method)}


def latent_trains(config: QwenConfig, method: Method) -> Mapping[str, Choice]:
    """The same, and the policy where it is cloned in the same step."""
    policy: dict[str, Choice] = {"latent.policy": True} if method.sft == "joint" else {}
    return {**backbone_trains(config, method), **policy}


latent_sft_loss, token_sft_loss = as_loss(latent_sft_objective), as_loss(token_sft_objective)
SFT_LATENT = Stage("sft_latent", latent_sft_objective, latent_trains)
SFT_TOKEN = Stage("sft_token", token_sft_objective, backbone_trains)
SFT_PREDICT = Stage("sft_predict", predict_objective, backbone_trains)
SFT_CLONE = Stage("sft_clone", clone_objective, whole("latent.policy"))
