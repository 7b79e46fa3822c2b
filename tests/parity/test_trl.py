"""Losses, gradients and metrics against TRL's own `GRPOTrainer._compute_loss`, called on a stub of the trainer.

Needs the extra `parity`; imports stay inside functions so that the module is collected (and deselected) without it.
"""

import dataclasses
import warnings
from collections import defaultdict
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lam_jax.rl import ALGORITHMS, Algorithm, count_batch, loss_denominator, policy_loss
from lam_jax.rl.advantages import normalise_rewards

pytestmark = pytest.mark.parity

ROWS, WIDTH, MAX_LENGTH = 8, 11, 16


def trl():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from trl.trainer import grpo_trainer
    return grpo_trainer


def batch(seed: int) -> dict[str, np.ndarray]:
    """Rows of length 0 to WIDTH (row 1 is empty), ratios far enough from 1 to be clipped on both sides."""
    rng = np.random.default_rng(seed)
    logps = -rng.exponential(1.0, (ROWS, WIDTH))
    lengths = rng.integers(1, WIDTH + 1, ROWS)
    lengths[1] = 0
    arrays = {
        "logps": logps,
        "old_logps": logps + 0.3 * rng.standard_normal(logps.shape),
        "ref_logps": logps + 0.5 * rng.standard_normal(logps.shape),
        "entropies": rng.uniform(0, 2, logps.shape),
        "advantages": rng.standard_normal(ROWS),
    }
    arrays = {name: value.astype(np.float32) for name, value in arrays.items()}
    arrays["advantages"][2:4] = 0  # a zero-variance group
    return arrays | {"mask": np.arange(WIDTH)[None, :] < lengths[:, None]}


LOSS_TYPES = {"sequence_mean": "grpo", "max_length": "dr_grpo", "global_tokens": "dapo", "local_tokens": "bnpo"}


def trl_loss(algorithm: Algorithm, arrays: dict[str, np.ndarray], steps: int, tokens: int, on_policy: bool):
    """(loss, d loss / d logps, metrics) of one of `steps` equal micro-batches with `tokens` active tokens in all."""
    import torch

    grpo_trainer = trl()
    tensors = {name: torch.tensor(value) for name, value in arrays.items()}
    logps = tensors["logps"].clone().requires_grad_()
    cispo = algorithm.objective == "cispo"
    metrics = {"train": defaultdict(list)}
    stub = SimpleNamespace(
        _get_per_token_logps_and_entropies=lambda *a, **k: (logps, tensors["entropies"], None),
        _metrics=metrics,
        _entropy_bonus_enabled=False,
        accelerator=SimpleNamespace(num_processes=1, gather=lambda x: x, reduce=lambda x, reduction: x),
        args=SimpleNamespace(delta=algorithm.clip_delta, use_bias_correction_kl=False, steps_per_generation=steps),
        aux_loss_enabled=False,
        beta=algorithm.beta,
        current_gradient_accumulation_steps=steps,
        epsilon_low=algorithm.clip_low,
        epsilon_high=1 + algorithm.clip_high if cispo else algorithm.clip_high,
        importance_sampling_level=algorithm.importance,
        loss_type="cispo" if cispo else LOSS_TYPES[algorithm.normaliser],
        max_completion_length=MAX_LENGTH,
        model=SimpleNamespace(training=True),
        off_policy_mask_threshold=None,
        top_entropy_quantile=1.0,
        use_vllm=False,
    )
    ids = torch.zeros((ROWS, WIDTH), dtype=torch.long)
    inputs = {
        "prompt_ids": ids,
        "prompt_mask": ids,
        "completion_ids": ids,
        "completion_mask": tensors["mask"].int(),
        "advantages": tensors["advantages"],
        "ref_per_token_logps": tensors["ref_logps"],
        "num_items_in_batch": torch.tensor(tokens),
    }
    if not on_policy:
        inputs["old_per_token_logps"] = tensors["old_logps"]
    loss = grpo_trainer.GRPOTrainer._compute_loss(stub, stub.model, inputs)
    loss.backward()
    return loss.item(), logps.grad.numpy(), {name: values[0] for name, values in metrics["train"].items()}


def our_loss(algorithm: Algorithm, arrays: dict[str, np.ndarray], denominator, on_policy: bool):
    arrays = {name: jnp.asarray(value) for name, value in arrays.items()}

    def loss_of(logps):
        return policy_loss(
            algorithm,
            logps,
            None if on_policy else arrays["old_logps"],
            arrays["ref_logps"],
            arrays["advantages"],
            arrays["mask"],
            denominator,
            arrays["entropies"],
        )

    (loss, metrics), gradient = jax.jit(jax.value_and_grad(loss_of, has_aux=True))(arrays["logps"])
    return float(loss), np.asarray(gradient), metrics.means()


CASES = {
    **ALGORITHMS,
    "two_sided": dataclasses.replace(ALGORITHMS["grpo"], clip_delta=1.3),
    "no_kl": dataclasses.replace(ALGORITHMS["dapo"], beta=0.0),
    "sequence_tokens": dataclasses.replace(ALGORITHMS["dapo"], importance="sequence"),
}


@pytest.mark.parametrize("on_policy", [False, True], ids=["off_policy", "on_policy"])
@pytest.mark.parametrize("name", CASES)
def test_loss_gradient_and_metrics(name: str, on_policy: bool):
    """Two accumulation steps: TRL scales each by what we put into the global denominator."""
    algorithm, steps = CASES[name], 2
    parts = [batch(seed) for seed in range(steps)]
    counts = [count_batch(jnp.asarray(part["mask"])) for part in parts]
    total = jax.tree.map(jnp.add, *counts)
    denominator = loss_denominator(algorithm.normaliser, total, MAX_LENGTH)
    for part in parts:
        loss, gradient, metrics = our_loss(algorithm, part, denominator, on_policy)
        expected, expected_gradient, reported = trl_loss(algorithm, part, steps, int(total.tokens), on_policy)
        assert loss == pytest.approx(expected, rel=1e-5, abs=1e-7)
        np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-4, atol=1e-7)
        assert float(metrics["entropy"]) == pytest.approx(reported["entropy"], rel=1e-5)
        if algorithm.beta:
            assert float(metrics["kl"]) == pytest.approx(reported["kl"], rel=1e-4)
        if algorithm.importance == "token" and algorithm.objective == "clipped":
            for side in ("low", "high"):
                assert float(metrics[f"clip_fraction_{side}"]) == pytest.approx(reported[f"clip_ratio/{side}_mean"])


def test_some_ratios_are_clipped_on_both_sides():
    """The comparison above would prove little about clipping otherwise."""
    _, _, metrics = our_loss(ALGORITHMS["grpo"], batch(0), jnp.float32(1.0), on_policy=False)
    assert float(metrics["clip_fraction_low"]) > 0.02
    assert float(metrics["clip_fraction_high"]) > 0.02


def test_failed_rewards_leave_the_group_statistics_as_trls_nan_rewards_do():
    import torch
    from trl.trainer import utils

    rewards = np.array([[0.2, 0.9, np.nan, 0.4], [0.5, 0.5, 0.5, 0.5]], np.float32)
    tensor = torch.tensor(rewards)
    expected = (tensor - tensor.nanmean(dim=1, keepdim=True)) / (utils.nanstd(tensor, dim=1)[:, None] + 1e-4)
    got = normalise_rewards(rewards, ~np.isnan(rewards), "group_std")
    np.testing.assert_allclose(got, np.nan_to_num(expected.numpy()), rtol=1e-5, atol=1e-6)
