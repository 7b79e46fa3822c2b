"""The released stages in torch: every array of a golden set from weights, rows and noise (see `released_reference`)."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from tests.parity.released_reference import (
    TEXT,
    Released,
    Rows,
    cloning,
    cross_entropy,
    negative_entropy,
)

Arrays = dict[str, Any]


def outputs(
    model: Released, eager: Released, mm: Rows, txt: Rows, noise: dict[str, Tensor]
) -> tuple[Arrays, dict[str, Tensor]]:
    """Arrays of SET_outputs, and each stage's total loss with its graph. `eager`: the same with eager attention."""
    arrays: Arrays = dict(noise)
    withheld = mm.withheld()
    with torch.no_grad():
        e, e_text, x_text = (model.states(rows) for rows in (mm, withheld, txt))
        own_noise = noise["InverseWarmUp/gumbel_noise"]
        # At padding only the states feel the other kernel: the code there is that of the next, real position.
        arrays["InverseWarmUp/loss_total_eager_attn"] = _inverse(model, mm, eager.states(mm), own_noise, {})
        if mm.images:
            arrays["vision/image_embeds"] = model.model.model.visual(
                mm.images["pixel_values"], mm.images["image_grid_thw"]
            ).pooler_output
    last = (mm.positions * mm.mask).amax(dim=(0, 2))
    arrays.update(
        {
            "mm/position_ids": mm.positions,
            "mm/position_ids_textonly": withheld.positions,
            "txt/position_ids": txt.positions,
            "mm/rope_deltas": (last + 1 - mm.ids.shape[1])[:, None],
            "mm/base_hidden_textvision": e,
            "mm/base_hidden_textonly": e_text,
            "txt/base_hidden_textonly": x_text,
        }
    )
    losses = {
        "InverseWarmUp": _inverse(model, mm, e, own_noise, arrays),
        "CycleWarmUp": _cycle(model, mm, e, e_text, arrays),
        "InverseActionVLM": _joint(model, (mm, withheld, txt), (e, e_text, x_text), noise, arrays),
        "PolicyActionVLM": _cloning(model, (mm, txt), (e, model.mu("Text2TV", x_text)), arrays),
        "PolicyActionWorldVLM": _sft(model, mm, True, "PolicyActionWorldVLM", arrays),
    }
    _sft(model, txt, False, "PolicyActionWorldVLM_txt", arrays)
    return arrays, losses


def used(rows: Rows, *indices: Tensor) -> np.ndarray:
    return np.asarray(len({int(i) for index in indices for i in index[rows.labels != -100]}))


def _inverse(model: Released, mm: Rows, e: Tensor, noise: Tensor, arrays: Arrays) -> Tensor:
    logits, soft, out = model.inverse_pass(e, mm, noise)
    hard = torch.softmax(logits, -1)
    nll, entropy = cross_entropy(model.logits(out), mm.labels), 1e-3 * negative_entropy(logits, mm)
    found = {
        "nll": nll,
        "entropy_loss_scaled": entropy,
        "loss_total": nll + entropy,
        "num_used_actions": used(mm, hard.argmax(-1)),
        "logits": model.logits(out),
        "final_hidden": out,
        "action_logits": logits,
        "hard_probs": hard,
        "hard_idx": hard.argmax(-1),
        "soft_probs": soft,
        "soft_idx": soft.argmax(-1),
    }
    arrays.update({f"InverseWarmUp/{name}": value for name, value in found.items()})
    return nll + entropy


def _cycle(model: Released, mm: Rows, e: Tensor, e_text: Tensor, arrays: Arrays) -> Tensor:
    there, back = model.nll("Text2TV", e_text, e, mm), model.nll("TV2Text", e, e_text, mm)
    found = {
        "nll_1": there,
        "nll_2": back,
        "loss_total": there + back,
        "Text2TV_mu": model.mu("Text2TV", e_text),
        "Text2TV_logvar": model.logvar("Text2TV", e_text),
        "TV2Text_mu": model.mu("TV2Text", e),
        "TV2Text_logvar": model.logvar("TV2Text", e),
        "logits_from_Text2TV_mu": model.logits(model.mu("Text2TV", e_text)),
    }
    arrays.update({f"CycleWarmUp/{name}": value for name, value in found.items()})
    return there + back


def _joint(model: Released, rows: tuple, states: tuple, noise: dict[str, Tensor], arrays: Arrays) -> Tensor:
    stage, (mm, _, txt), (e, e_text, x_text) = "InverseActionVLM", rows, states
    views = (
        ("mm_textvision", "0", "TV2Text", "Text2TV"),
        ("mm_textonly", "1", "Text2TV", "TV2Text"),
        ("txt_textonly", "2", "Text2TV", "TV2Text"),
    )
    parts, used_codes = {}, {}
    for (view, number, there, back), own, state in zip(views, rows, states):
        estimate = model.mu(there, state)
        # The projector learns from the likelihoods and the cycle alone.
        x = state if view == "mm_textvision" else estimate.detach()
        logits, soft, out = model.inverse_pass(x, own, noise[f"{stage}/gumbel_noise_{number}_{view}"])
        parts[view], used_codes[view] = (logits, out), logits.argmax(-1)
        found = {
            "action_logits": logits,
            "hard_idx": logits.argmax(-1),
            "soft_idx": soft.argmax(-1),
            "final_hidden": out,
            "estimated_mu": estimate,
            "estimated_logvar": model.logvar(there, state),
            "cycle_estimated_mu": model.mu(back, estimate),
            "cycle_estimated_logvar": model.logvar(back, estimate),
        }
        arrays.update({f"{stage}/{view}/{name}": value for name, value in found.items()})
    paired, text = parts["mm_textvision"], parts["txt_textonly"]
    loss1 = 1e-5 * (model.nll("Text2TV", e_text, e, mm) + model.nll("TV2Text", e, e_text, mm))
    loss2 = cross_entropy(model.logits(paired[1]), mm.labels)
    loss3 = 1e-5 * model.nll("TV2Text", model.mu("Text2TV", x_text), x_text, txt)
    loss4 = cross_entropy(model.logits(text[1]), txt.labels)
    one, two = 1e-3 * negative_entropy(paired[0], mm), 1e-3 * negative_entropy(text[0], txt)
    both = Rows(None, None, torch.cat([mm.labels, txt.labels]), None, {})
    hard = [used_codes["mm_textvision"], used_codes["txt_textonly"]]
    total = loss1 + loss2 + loss3 + loss4 + one + two
    found = {
        "loss1": loss1,
        "loss2": loss2,
        "loss3": loss3,
        "loss4": loss4,
        "entropy_loss_part1": one,
        "entropy_loss_part2": two,
        "loss_total": total,
        "num_used_actions_part1": used(mm, hard[0]),
        "num_used_actions_part2": used(txt, hard[1]),
        "num_used_actions": used(both, torch.cat(hard)),
        "logits": torch.cat([model.logits(paired[1]), model.logits(text[1])]),
    }
    arrays.update({f"{stage}/{name}": value for name, value in found.items()})
    return total


def _cloning(model: Released, rows: tuple, inputs: tuple, arrays: Arrays) -> Tensor:
    stage, chosen, outs, losses, accuracies = "PolicyActionVLM", [], [], [], []
    for name, own, x in zip(("mm", "txt"), rows, inputs):
        x = x.detach()
        policy, inverse = model.codes("policy", x, own), model.codes("inverse", x, own)
        loss, accuracy = cloning(policy, inverse.argmax(-1), own)
        chosen.append(policy.argmax(-1))
        outs.append(model.logits(model.read(x, model.one_hot(chosen[-1]), "delta")))
        losses.append(loss)
        accuracies.append(accuracy)
        arrays[f"{stage}/{name}/POLICY_action_logits"] = policy
        arrays[f"{stage}/{name}/POLICY_action_idx"] = chosen[-1]
        arrays[f"{stage}/{name}/INVERSE_action_idx"] = inverse.argmax(-1)
        arrays[f"{stage}/{name}/INVERSE_action_probs"] = torch.softmax(inverse, -1)
    labels = torch.cat([own.labels for own in rows])
    both = Rows(None, None, labels, None, {})
    found = {
        "loss_behavior_cloning": sum(losses),
        "loss_bc_1": losses[0],
        "loss_bc_2": losses[1],
        "acc_bc_1": accuracies[0],
        "acc_bc_2": accuracies[1],
        "acc_action_behavior_cloning": sum(accuracies) / 2,
        "num_used_actions_1": used(rows[0], chosen[0]),
        "num_used_actions_2": used(rows[1], chosen[1]),
        "num_used_actions": used(both, torch.cat(chosen)),
        "next_token_loss_monitor": cross_entropy(torch.cat(outs), labels),
        "logits": torch.cat(outs),
    }
    arrays.update({f"{stage}/{name}": value for name, value in found.items()})
    return sum(losses)


def _sft(model: Released, rows: Rows, has_image: bool, stage: str, arrays: Arrays) -> Tensor:
    states = model.states(rows)
    x = states if has_image else model.mu("Text2TV", states)
    policy = model.codes("policy", x.detach(), rows)
    out = model.read(x, model.one_hot(policy.argmax(-1)), "block")
    loss = cross_entropy(model.logits(out), rows.labels)
    found = {"loss": loss, "logits": model.logits(out), "action_idx": policy.argmax(-1)}
    if has_image:
        found |= {"action_logits": policy, "final_hidden": out, "num_used_actions": used(rows, policy.argmax(-1))}
    arrays.update({f"{stage}/{name}": value for name, value in found.items()})
    return loss


@torch.no_grad()
def generate(model: Released, rows: Rows, new: int) -> tuple[Rows, Arrays]:
    """Greedy latent generation by full forward passes; nothing is projected. Also the continued rows."""
    logits = []
    after = (rows.positions * rows.mask).amax(dim=(0, 2)) + 1
    for step in range(new):
        state = model.states(rows)
        policy = model.codes("policy", state, rows)
        out = model.logits(model.read(state, model.one_hot(policy.argmax(-1)), "block"))[:, -1]
        logits.append(out)
        rows = Rows(
            torch.cat([rows.ids, out.argmax(-1, keepdim=True)], 1),
            torch.cat([rows.mask, torch.ones_like(rows.mask[:, :1])], 1),
            rows.labels,
            torch.cat([rows.positions, (after + step)[None, :, None].expand(3, -1, 1)], 2),
            rows.images,
        )
    probabilities, index = torch.softmax(policy, -1).max(-1)
    found = {
        "sequences": rows.ids,
        "action_idx": index,
        "action_probs": probabilities,
        "logits": torch.stack(logits, 1),
    }
    return rows, found


def rl_step(model: Released, rows: Rows, actions: Tensor, rng: np.random.Generator) -> tuple[Arrays, Tensor]:
    """One DAPO step with beta 0.01 on generated rows; the first completion ends three tokens early."""
    count = actions.shape[1]
    completion = torch.ones_like(actions)
    completion[0, -3:] = 0
    mask = torch.cat([rows.mask[:, :-count], completion], 1)
    rows = Rows(rows.ids, mask, rows.labels, rows.positions, rows.images)
    with torch.no_grad():
        hidden = _before_norm(model, rows)
    logits = model.codes("policy", model.core.norm(hidden), rows)[:, -count - 1 : -1]
    scores = torch.log_softmax(logits, -1)
    logps = scores.gather(-1, actions[..., None])[..., 0]
    reference = logps.detach() + torch.from_numpy(rng.normal(0, 0.3, logps.shape)).float()
    advantages = torch.from_numpy(rng.normal(0, 1, len(logps))).float()
    ratio = torch.exp(logps - logps.detach())
    weights = advantages[:, None]
    surrogate = -torch.minimum(ratio * weights, ratio.clamp(0.8, 1.2) * weights)
    d = reference - logps
    k3 = torch.exp(d) - d - 1
    total = completion.sum()
    loss = ((surrogate + 0.01 * k3) * completion).sum() / total
    arrays = {
        "rl/input_ids": rows.ids,
        "rl/attention_mask": mask,
        "rl/completion_mask": completion,
        "rl/completion_action_ids": actions,
        "rl/logps": logps,
        "rl/entropies": -(scores.exp() * scores).sum(-1),
        "rl/ref_logps": reference,
        "rl/advantages": advantages,
        "rl/dapo_loss": loss,
        "rl/kl": (k3 * completion).sum() / total,
    }
    return arrays, loss


def _before_norm(model: Released, rows: Rows) -> Tensor:
    seen = []
    handle = model.core.norm.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    model.states(rows)
    handle.remove()
    return seen[0]


def gradients(model: Released, stage: str, loss: Tensor) -> Arrays:
    """What the stage trains, under the released freeze rules."""
    core, names = TEXT, [name for name, _ in model.model.named_parameters()]
    projectors = (f"{core}.Text2TV", f"{core}.TV2Text")
    inverse = (f"{core}.inverse_", f"{core}.action_code_book", f"{core}.action_merge_layers")
    upper = tuple(f"{core}.layers.{i}." for i in model.settings["sft_trainable_layers"])
    prefixes = {
        "InverseWarmUp": inverse,
        "CycleWarmUp": projectors,
        "InverseActionVLM": inverse + projectors,
        "PolicyActionVLM": (f"{core}.policy_",),
        "PolicyActionWorldVLM": ("model.visual.", f"{core}.embed_tokens", f"{core}.norm.", "lm_head", *upper),
        "VLMActionRL": (f"{core}.policy_", f"{core}.norm."),
    }[stage]
    chosen = [name for name in names if name.startswith(prefixes)]
    weights = [model.model.get_parameter(name) for name in chosen]
    found = torch.autograd.grad(loss, weights, retain_graph=True, allow_unused=True)
    pairs = zip(chosen, weights, found, strict=True)
    return {name: torch.zeros_like(w) if gradient is None else gradient for name, w, gradient in pairs}
