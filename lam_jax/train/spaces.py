"""Action spaces as values: all that training does differently when actions are codes and when they are tokens.

Legend: N prompts, G samples of a prompt, T completion length.
"""

import dataclasses
from collections.abc import Callable, Mapping

from jaxtyping import Array, Float

from lam_jax.latent.agent import Agent
from lam_jax.models.inputs import Batch
from lam_jax.models.qwen2_5_vl.config import QwenConfig
from lam_jax.nn.stack import Remat
from lam_jax.rollout.actions import ActionSpace, LatentActions, TokenActions
from lam_jax.rollout.engine import Rollout
from lam_jax.rollout.rescore import latent_logps, token_space_logps
from lam_jax.rollout.sampling import SamplingConfig
from lam_jax.train.method import Method
from lam_jax.train.partition import Choice
from lam_jax.train.stages.sft import SFT_CLONE, SFT_LATENT, SFT_LEARN, SFT_PREDICT, SFT_TOKEN
from lam_jax.train.stages.stage import Stage, Trains, backbone_top

Logps = tuple[Float[Array, "N G T"], Float[Array, "N G T"]]


@dataclasses.dataclass(frozen=True)
class Space:
    """What an action is.

    Attributes:
        name: in phases, metrics and results.
        actions: (agent, method) -> how it is rolled out.
        logps: (agent, method, prompts, rollout, sampling, remat) -> log-probabilities of the recorded actions under
            the agent, and entropies.
        trains: (config of the backbone, method) -> what RL trains, for `partition`.
        sft: method -> the passes of stage 5 that RL starts from, in order, by the first part of their phases' names.
        coded: actions are codes, which answers are shown with.
    """

    name: str
    actions: Callable[[Agent, Method], ActionSpace]
    logps: Callable[[Agent, Method, Batch, Rollout, SamplingConfig, Remat], Logps]
    trains: Trains
    sft: Callable[[Method], Mapping[str, Stage]]
    coded: bool


def _latent_actions(agent: Agent, method: Method) -> ActionSpace:
    return LatentActions(agent, method.generating)


def _latent_logps(
    agent: Agent, method: Method, prompts: Batch, rollout: Rollout, sampling: SamplingConfig, remat: Remat
) -> Logps:
    return latent_logps(LatentActions(agent, method.acting), prompts, rollout, sampling, remat)


def _latent_trains(config: QwenConfig, method: Method) -> Mapping[str, Choice]:
    return {"latent.policy": True} | ({"backbone.norm": True} if method.train_norm else {})


def _latent_sft(method: Method) -> Mapping[str, Stage]:
    if method.sft == "guided":
        return {"sft": SFT_PREDICT, "sft_clone": SFT_CLONE}
    return {"sft": SFT_LEARN if method.sft == "learn" else SFT_LATENT}


def _token_actions(agent: Agent, method: Method) -> ActionSpace:
    return TokenActions(agent.backbone)


def _token_logps(
    agent: Agent, method: Method, prompts: Batch, rollout: Rollout, sampling: SamplingConfig, remat: Remat
) -> Logps:
    return token_space_logps(agent.backbone, prompts, rollout, sampling, remat)


def _token_sft(method: Method) -> Mapping[str, Stage]:
    return {"sft": SFT_TOKEN}


LATENT = Space("latent", _latent_actions, _latent_logps, _latent_trains, _latent_sft, coded=True)
TOKEN = Space("token", _token_actions, _token_logps, backbone_top, _token_sft, coded=False)
SPACES: Mapping[str, Space] = {space.name: space for space in (LATENT, TOKEN)}
