"""Every array of SET_outputs.npz, from the library's modules and its stage losses under the preset `official`.

mm: rows with images, txt: text-only rows, withheld: mm rows run without their images.
"""

import contextlib
import unittest.mock
from collections.abc import Iterator, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from lam_jax.latent.agent import Agent, Reading
from lam_jax.losses import next_token, target_mask
from lam_jax.models.inputs import Batch
from lam_jax.nn import attention as attn
from lam_jax.train.method import METHODS
from lam_jax.train.stages import (
    MixedBatch,
    cloning_loss,
    inverse_loss,
    joint_loss,
    latent_sft_loss,
    projector_loss,
)
from lam_jax.train.stages.inverse_pass import inverse_logits, inverse_pass
from tests.parity.case import Case
from tests.parity.checks import Check

METHOD = METHODS["official"]


class Rows:
    """A batch, its states, and what inverse dynamics, policy and merge read of it."""

    def __init__(self, agent: Agent, batch: Batch):
        self.agent, self.batch = agent, batch
        self.states = agent.backbone.states(batch)
        self.x = agent.action_input(self.states, batch.has_image, METHOD.learning)

    def inverse_logits(self) -> jax.Array:
        return inverse_logits(self.agent, self.x, self.batch)

    def policy_logits(self) -> jax.Array:
        return self.agent.latent.policy(self.x, self.agent.backbone.rotary(self.batch.positions), self.batch.mask)

    def read(self, action: jax.Array, reading: Reading) -> jax.Array:
        return self.agent.read(self.x, self.agent.latent.look_up(action), reading)

    def logits(self, out: jax.Array) -> jax.Array:
        return self.agent.backbone.logits(out)


class View(struct.PyTreeNode):
    """Arrays of one kind of rows, named; `whole` are compared at every position, `real` at real tokens only.

    `codes` are arrays of codes [B, L] of which the set holds the number of distinct ones at valid tokens.
    """

    whole: dict[str, jax.Array]
    real: dict[str, jax.Array]
    codes: dict[str, jax.Array]

    def __or__(self, other: "View") -> "View":
        return View(self.whole | other.whole, self.real | other.real, self.codes | other.codes)


def outputs(agent: Agent, case: Case, given: Mapping[str, np.ndarray]) -> dict[str, Check]:
    """Checks by array name. Of `given`, only the recorded Gumbel noise is read."""
    noise = {name: jnp.asarray(value) for name, value in given.items() if "gumbel_noise" in name}
    mm, txt = case.batch("mm"), case.batch("txt")
    views = jax.jit(_compute)(agent, mm, txt, noise)
    with uniform_attention_without_keys():
        recorded = noise["InverseWarmUp/gumbel_noise"]
        eager = jax.jit(lambda agent: inverse_loss(agent, mm, recorded, METHOD)[0])(agent)
    masks = {"mm": (mm,), "txt": (txt,), "both": (mm, txt)}
    checks = {name: Check(None, "input") for name in noise}
    checks["InverseWarmUp/loss_total_eager_attn"] = Check(eager)
    for rows, view in views.items():
        real = np.concatenate([batch.mask for batch in masks[rows]])
        valid = np.concatenate([batch.valid for batch in masks[rows]])
        checks |= {name: Check(value) for name, value in view.whole.items()}
        checks |= {name: Check(value, where=real) for name, value in view.real.items()}
        checks |= {name: Check(np.unique(np.asarray(code)[valid]).size) for name, code in view.codes.items()}
    seen = np.asarray(mm.images.image_id)[:, :: case.config.vision.merge_patches] >= 0
    embeds = checks["vision/image_embeds"].ours
    return checks | {"vision/image_embeds": Check(np.asarray(embeds)[seen])}


def _compute(agent: Agent, mm: Batch, txt: Batch, noise: dict[str, jax.Array]) -> dict[str, View]:
    paired, text = Rows(agent, mm), Rows(agent, txt)
    withheld = Rows(agent, mm.without_images().replace(has_image=jnp.zeros_like(mm.has_image)))
    joint, cloning = _joint(paired, withheld, text, noise), _cloning(paired, text)
    return {
        "mm": _backbone(paired, withheld)
        | _inverse_warm_up(paired, noise["InverseWarmUp/gumbel_noise"])
        | _cycle_warm_up(paired, withheld)
        | joint["mm"]
        | cloning["mm"]
        | _sft("PolicyActionWorldVLM", paired),
        "txt": View({"txt/position_ids": _streams(txt)}, {"txt/base_hidden_textonly": text.states}, {})
        | joint["txt"]
        | cloning["txt"]
        | _sft("PolicyActionWorldVLM_txt", text),
        "both": joint["both"] | cloning["both"],
    }


def _streams(batch: Batch) -> jax.Array:
    """Positions in the reference's order, [3, B, L]."""
    return jnp.swapaxes(batch.positions, 0, 1)


def _backbone(mm: Rows, withheld: Rows) -> View:
    backbone, batch = mm.agent.backbone, mm.batch
    last = jnp.max(jnp.where(batch.mask[:, None], batch.positions, 0), axis=(1, 2))
    whole = {
        "vision/image_embeds": backbone.vision(batch.images, backbone.config.dtype),
        "mm/position_ids": _streams(batch),
        "mm/position_ids_textonly": _streams(withheld.batch),
        "mm/rope_deltas": (last + 1 - batch.tokens.shape[1])[:, None],
    }
    return View(whole, {"mm/base_hidden_textvision": mm.states, "mm/base_hidden_textonly": withheld.states}, {})


def _inverse_warm_up(mm: Rows, noise: jax.Array) -> View:
    loss, metrics = inverse_loss(mm.agent, mm.batch, noise, METHOD)
    inferred = inverse_pass(mm.agent, mm.x, mm.batch, noise, METHOD.learning)
    probabilities = jax.nn.softmax(inferred.logits, axis=-1)
    hard = jnp.argmax(probabilities, axis=-1)
    whole = {
        "nll": metrics["ce"],
        "entropy_loss_scaled": -METHOD.entropy_weight * metrics["entropy"],
        "loss_total": loss,
    }
    real = {
        "logits": mm.logits(inferred.out),
        "final_hidden": inferred.out,
        "action_logits": inferred.logits,
        "hard_probs": probabilities,
        "hard_idx": hard,
        "soft_probs": jax.nn.softmax((inferred.logits + noise) / mm.agent.latent.config.tau, axis=-1),
        "soft_idx": inferred.action,
    }
    return _named("InverseWarmUp", whole, real, {"num_used_actions": hard})


def _cycle_warm_up(mm: Rows, withheld: Rows) -> View:
    loss, metrics = projector_loss(mm.agent, mm.batch, None, METHOD)
    forward, backward = mm.agent.latent.projector, mm.agent.latent.back_projector
    whole = {
        "nll_1": metrics["nll_text_to_image"],
        "nll_2": metrics["nll_image_to_text"],
        "loss_total": loss,
    }
    real = {
        "Text2TV_mu": forward.mean(withheld.states),
        "Text2TV_logvar": forward.log_variance(withheld.states),
        "TV2Text_mu": backward.mean(mm.states),
        "TV2Text_logvar": backward.log_variance(mm.states),
        "logits_from_Text2TV_mu": mm.logits(forward.mean(withheld.states)),
    }
    return _named("CycleWarmUp", whole, real, {})


def _joint(mm: Rows, withheld: Rows, txt: Rows, noise: dict[str, jax.Array]) -> dict[str, View]:
    agent, stage = mm.agent, "InverseActionVLM"
    recorded = [noise[f"{stage}/gumbel_noise_{i}"] for i in ("0_mm_textvision", "1_mm_textonly", "2_txt_textonly")]
    total, metrics = joint_loss(agent, MixedBatch(mm.batch, txt.batch), (recorded[0], recorded[2]), METHOD)
    forward, backward = agent.latent.projector, agent.latent.back_projector
    sources = {
        "mm_textvision": (mm, recorded[0], backward, forward),
        "mm_textonly": (withheld, recorded[1], forward, backward),
        "txt_textonly": (txt, recorded[2], forward, backward),
    }
    views, out, hard = {}, {}, {}
    for name, (rows, own_noise, there, back) in sources.items():
        inferred = inverse_pass(agent, rows.x, rows.batch, own_noise, METHOD.learning)
        estimate = there.mean(rows.states)
        out[name], hard[name] = inferred.out, jnp.argmax(inferred.logits, axis=-1)
        real = {
            "action_logits": inferred.logits,
            "hard_idx": hard[name],
            "soft_idx": inferred.action,
            "final_hidden": inferred.out,
            "estimated_mu": estimate,
            "estimated_logvar": there.log_variance(rows.states),
            "cycle_estimated_mu": back.mean(estimate),
            "cycle_estimated_logvar": back.log_variance(estimate),
        }
        views[name] = _named(f"{stage}/{name}", {}, real, {})
    whole = {
        "loss1": metrics["nll"],
        "loss2": metrics["ce_paired"],
        "loss3": metrics["cycle"],
        "loss4": metrics["ce_text"],
        "entropy_loss_part1": -METHOD.entropy_weight * metrics["entropy_paired"],
        "entropy_loss_part2": -METHOD.entropy_weight * metrics["entropy_text"],
        "loss_total": total,
    }
    paired, text = out["mm_textvision"], out["txt_textonly"]
    codes = jnp.concatenate([hard["mm_textvision"], hard["txt_textonly"]])
    logits = {"logits": jnp.concatenate([mm.logits(paired), txt.logits(text)])}
    return {
        "mm": views["mm_textvision"]
        | views["mm_textonly"]
        | _named(stage, whole, {}, {"num_used_actions_part1": hard["mm_textvision"]}),
        "txt": views["txt_textonly"] | _named(stage, {}, {}, {"num_used_actions_part2": hard["txt_textonly"]}),
        "both": _named(stage, {}, logits, {"num_used_actions": codes}),
    }


def _cloning(mm: Rows, txt: Rows) -> dict[str, View]:
    stage = "PolicyActionVLM"
    total, metrics = cloning_loss(mm.agent, MixedBatch(mm.batch, txt.batch), None, METHOD)
    views, out, chosen, monitor = {}, {}, {}, []
    for name, rows, number in (("mm", mm, 1), ("txt", txt, 2)):
        policy, inverse = rows.policy_logits(), rows.inverse_logits()
        chosen[name] = jnp.argmax(policy, axis=-1)
        out[name] = rows.read(chosen[name], METHOD.learning)
        keep = target_mask(rows.batch.valid, rows.batch.mask, after_padding=METHOD.after_padding)
        monitor.append(next_token(out[name], rows.agent.table, rows.batch.tokens, keep))
        real = {
            "POLICY_action_logits": policy,
            "POLICY_action_idx": chosen[name],
            "INVERSE_action_idx": jnp.argmax(inverse, axis=-1),
            "INVERSE_action_probs": jax.nn.softmax(inverse, axis=-1),
        }
        used = _named(stage, {}, {}, {f"num_used_actions_{number}": chosen[name]})
        views[name] = _named(f"{stage}/{name}", {}, real, {}) | used
    whole = {
        "loss_behavior_cloning": total,
        "loss_bc_1": metrics["cloning_paired"],
        "loss_bc_2": metrics["cloning_text"],
        "acc_bc_1": metrics["accuracy_paired"],
        "acc_bc_2": metrics["accuracy_text"],
        "acc_action_behavior_cloning": (metrics["accuracy_paired"] + metrics["accuracy_text"]) / 2,
        "next_token_loss_monitor": (monitor[0] + monitor[1]).value,
    }
    logits = {"logits": jnp.concatenate([mm.logits(out["mm"]), txt.logits(out["txt"])])}
    codes = {"num_used_actions": jnp.concatenate([chosen["mm"], chosen["txt"]])}
    return {**views, "both": _named(stage, whole, logits, codes)}


def _sft(stage: str, rows: Rows) -> View:
    loss, _ = latent_sft_loss(rows.agent, rows.batch, None, METHOD)
    policy = rows.policy_logits()
    action = jnp.argmax(policy, axis=-1)
    out = rows.read(action, METHOD.acting)
    real = {"logits": rows.logits(out), "action_idx": action, "action_logits": policy, "final_hidden": out}
    return _named(stage, {"loss": loss}, real, {"num_used_actions": action})


def _named(stage: str, *groups: dict[str, jax.Array]) -> View:
    return View(*({f"{stage}/{name}": value for name, value in group.items()} for group in groups))


@contextlib.contextmanager
def uniform_attention_without_keys() -> Iterator[None]:
    """torch's `eager` attention: a query without any key gets the mean of all values, future ones and padding included.

    The library has no such mode; it is needed for one number of the set, and only here.
    """
    plain = attn.attention

    def eager(q: jax.Array, k: jax.Array, v: jax.Array, keep: jax.Array) -> jax.Array:
        repeat = q.shape[-2] // k.shape[-2]
        mean = jnp.repeat(jnp.mean(v, axis=-3, keepdims=True), repeat, axis=-2)
        return jnp.where(jnp.any(keep, axis=-1)[..., None, None], plain(q, k, v, keep), mean)

    with unittest.mock.patch.object(attn, "attention", eager):
        yield
