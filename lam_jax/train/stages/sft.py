"""Stage 5, supervised fine-tuning on task rows, in the latent and in the token action space (method.md section 3).

Latent recipes: `released` predicts with the policy's own codes; `guided` predicts response tokens with the inverse
model's codes (pass A) and then clones the policy on the new backbone (pass B); `joint` does both in one step; `learn`
does what `joint` does while inverse model, codebook and merge go on learning too.
"""

from collections.abc import Mapping
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array

from lam_jax.latent.agent import Agent
from lam_jax.latent.code_model import straight_through
from lam_jax.latent.health import health
from lam_jax.losses import cloning, next_token, target_mask
from lam_jax.models.config import BackboneConfig
from lam_jax.models.inputs import Batch
from lam_jax.train.method import Method
from lam_jax.train.partition import Choice
from lam_jax.train.stages import inverse
from lam_jax.train.stages.inverse_pass import gumbel, inverse_logits
from lam_jax.train.stages.objective import Objective, as_loss, plain
from lam_jax.train.stages.stage import Stage, backbone_top, whole

Pass = Literal["released", "predict", "clone", "joint", "learn"]


def latent_sft_objective(
    agent: Agent, batch: Batch, noise: Array | None, method: Method, part: Pass | None = None
) -> Objective:
    """What one latent recipe minimises.

    Args:
        agent: the merge reads e with gradient; inverse and policy read `stop_grad(e)`. Codes are constants but under
            `learn`, where the choice is straight-through as in stages 1 and 3.
        batch: whole chats.
        noise: Gumbel noise [B, L, K] of `learn`'s choice, or None; the others use none. The policy is cloned to the
            choice without noise.
        method: `method.sft` names the recipe unless `part` does.
        part: `predict` and `clone` are passes A and B of the guided recipe.

    Raises:
        ValueError: the guided recipe without its pass.
    """
    if part is None and method.sft == "guided":
        raise ValueError("The guided recipe has two passes: call it with part='predict', then with part='clone'.")
    part = part or ("released" if method.sft == "guided" else method.sft)
    states = agent.backbone.states(batch, method.remat)
    x = agent.action_input(states, batch.has_image, method.acting)
    fixed = jax.lax.stop_gradient(x)
    rotary = agent.backbone.rotary(batch.positions)
    response = batch.response if part != "released" or method.response_only else None
    keep = target_mask(batch.valid, batch.mask, response, method.after_padding)
    policy_logits = agent.latent.policy(fixed, rotary, batch.mask, method.remat)
    logits = policy_logits
    if part != "released":
        logits = inverse_logits(agent, fixed, batch, method.remat if part == "learn" else False)
    action = jnp.argmax(jax.lax.stop_gradient(logits), axis=-1)
    means, metrics = {}, {}
    if part == "learn":
        code = agent.latent.code(straight_through(logits, noise, agent.latent.config.tau))
        metrics |= health(jax.lax.stop_gradient(logits), keep).scalars()
    else:
        code = jax.lax.stop_gradient(agent.latent.look_up(action))
    if part != "clone":
        means["ce"] = next_token(agent.read(x, code, method.acting), agent.table, batch.tokens, keep)
    if part in ("clone", "joint", "learn"):
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


def learn_objective(agent: Agent, batch: Batch, noise: Array | None, method: Method) -> Objective:
    """The recipe `learn`."""
    return latent_sft_objective(agent, batch, noise, method, part="learn")


def backbone_trains(config: BackboneConfig, method: Method) -> Mapping[str, Choice]:
    """Vision tower and the top of the backbone."""
    return {"backbone.vision": True, **backbone_top(config, method)}


def latent_trains(config: BackboneConfig, method: Method) -> Mapping[str, Choice]:
    """The same, and the policy where it is cloned in the same step."""
    policy: dict[str, Choice] = {"latent.policy": True} if method.sft == "joint" else {}
    return {**backbone_trains(config, method), **policy}


def learn_trains(config: BackboneConfig, method: Method) -> Mapping[str, Choice]:
    """Vision tower, top of the backbone, policy, and what names and reads the codes."""
    return {**backbone_trains(config, method), **dict.fromkeys(("latent.policy", *inverse.TRAINS), True)}


latent_sft_loss, token_sft_loss = as_loss(latent_sft_objective), as_loss(token_sft_objective)
SFT_LATENT = Stage("sft_latent", latent_sft_objective, latent_trains)
SFT_LEARN = Stage("sft_learn", learn_objective, learn_trains, gumbel)
SFT_TOKEN = Stage("sft_token", token_sft_objective, backbone_trains)
SFT_PREDICT = Stage("sft_predict", predict_objective, backbone_trains)
SFT_CLONE = Stage("sft_clone", clone_objective, whole("latent.policy"))
