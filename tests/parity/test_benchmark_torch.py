"""The benchmarks' yardstick computes what we compute, so that its time may be compared with ours."""

import dataclasses

import jax
import numpy as np
import pytest
import torch

from benchmarks.programs import RolloutProgram, update_parts
from benchmarks.torch_baseline import TorchRollout, TorchUpdate, torch_model
from benchmarks.workload import WORKLOADS, make_agent, prompts, rl_config, spaces
from lam_jax.rollout.rescore import token_space_logps
from lam_jax.train.partition import count_parameters, partition

pytestmark = pytest.mark.parity
WORK = dataclasses.replace(WORKLOADS["tiny"], prompts=2)


@pytest.fixture(scope="module")
def agent():
    return make_agent(WORK)


@pytest.fixture(scope="module")
def model(agent):
    return torch_model(agent.backbone)


def test_update_scores_the_same_rows_and_trains_as_many_weights(agent, model):
    config = rl_config(WORK, "token").rollout
    out = RolloutProgram(spaces(agent)["token"], prompts(WORK), config)()
    update = TorchUpdate(model, WORK, np.asarray(out.tokens))
    # Picture marks that random weights sampled are replaced on the other side.
    out = out.replace(tokens=update.targets.reshape(out.tokens.shape).numpy().astype(np.int32))
    out = out.replace(actions=out.tokens)
    ours, _ = jax.jit(token_space_logps, static_argnums=3)(agent.backbone, prompts(WORK), out, config.sampling)
    with torch.no_grad():
        theirs = update.logps(update.model).numpy()
    np.testing.assert_allclose(np.asarray(ours).reshape(theirs.shape), theirs, atol=1e-4)
    trainable, _ = partition(agent, update_parts(WORK, "token")[1])
    assert sum(p.numel() for p in update.trainable) == count_parameters(trainable)
    before = update.trainable[0].detach().clone()
    assert np.isfinite(update())
    assert (update.trainable[0] != before).any()


def test_rollout_makes_all_the_tokens(model):
    out = TorchRollout(model, WORK)()
    assert out.shape == (WORK.prompts * WORK.samples, WORK.prompt + WORK.completion)
    assert len(torch.unique(out[: WORK.samples, WORK.prompt :], dim=0)) > 1
