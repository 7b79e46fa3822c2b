"""Action spaces as values: all that training does differently when actions are codes and when they are tokens.

Legend: N prompts, G samples of a prompt, T completion length.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

from jaxtyping import Array, Float

from lam_jax.latent.agent import Agent
from lam_jax.latent.config import LatentConfig
from lam_jax.models.config import BackboneConfig
from lam_jax.models.inputs import Batch
from lam_jax.nn.stack import Remat
from lam_jax.nn.stored import Storage, require_storage
from lam_jax.rollout.actions import ActionSpace, HybridActions, LatentActions, TokenActions
from lam_jax.rollout.engine import Rollout
from lam_jax.rollout.rescore import hybrid_logps, latent_logps, token_space_logps
from lam_jax.rollout.sampling import SamplingConfig
from lam_jax.train.counting import hybrid_update, latent_update, token_update
from lam_jax.train.method import Method
from lam_jax.train.partition import Choice
from lam_jax.train.stages.sft import SFT_CLONE, SFT_LATENT, SFT_LEARN, SFT_PREDICT, SFT_TOKEN
from lam_jax.train.stages.stage import Stage, Trains, backbone_top

# Log-probabilities, and entropies by the names of their metrics: "entropy" of a whole action, and of its parts.
Logps = tuple[Float[Array, "N G T"], Mapping[str, Float[Array, "N G T"]]]
# (backbone, latent modules, method, FLOPs of the pictures, is there a reference, sizes by name) -> FLOPs of an update.
UpdateFlops = Callable[..., float]


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
        sft_space: name of the space whose phases these are: two spaces that start alike share them.
        coded: actions are codes, which answers are shown with.
        update_flops: useful FLOPs of an update, see `lam_jax.train.counting`.
        parts: names of the entropies besides "entropy".
        emits: rollouts draw the token under a code; answers take the most likely one.
        frozen_backbone: the update reads the backbone's states from the rollout and scores by none of the matrices that
            drew with them, so that rollouts may hold these in fewer bits (`RolloutConfig.weights`).
        unused: parts of the agent that stage 6 does not read, by the beginnings of their paths.
    """

    name: str
    actions: Callable[[Agent, Method], ActionSpace]
    logps: Callable[[Agent, Method, Batch, Rollout, SamplingConfig, Remat], Logps]
    trains: Trains
    sft: Callable[[Method], Mapping[str, Stage]]
    sft_space: str
    coded: bool
    update_flops: UpdateFlops
    parts: tuple[str, ...] = ()
    emits: bool = False
    frozen_backbone: bool = False
    unused: tuple[str, ...] = ()


def _latent_actions(agent: Agent, method: Method) -> ActionSpace:
    return LatentActions(agent, method.generating)


def _latent_logps(
    agent: Agent, method: Method, prompts: Batch, rollout: Rollout, sampling: SamplingConfig, remat: Remat
) -> Logps:
    logps, entropies = latent_logps(LatentActions(agent, method.acting), prompts, rollout, sampling, remat)
    return logps, {"entropy": entropies}


def _latent_trains(config: BackboneConfig, method: Method) -> Mapping[str, Choice]:
    return {"latent.policy": True} | ({"backbone.norm": True} if method.train_norm else {})


def _latent_flops(
    config: BackboneConfig, latent: LatentConfig, method: Method, pictures: float, reference: bool, **sizes: Any
) -> float:
    return latent_update(config, latent, **sizes, reference=reference)


def _latent_sft(method: Method) -> Mapping[str, Stage]:
    if method.sft == "guided":
        return {"sft": SFT_PREDICT, "sft_clone": SFT_CLONE}
    return {"sft": SFT_LEARN if method.sft == "learn" else SFT_LATENT}


def _hybrid_actions(agent: Agent, method: Method) -> ActionSpace:
    return HybridActions(agent, method.generating)


def _hybrid_logps(
    agent: Agent, method: Method, prompts: Batch, rollout: Rollout, sampling: SamplingConfig, remat: Remat
) -> Logps:
    space = HybridActions(agent, method.acting)
    logps, codes, tokens = hybrid_logps(space, prompts, rollout, sampling, remat)
    return logps, {"entropy": codes + tokens, "code_entropy": codes, "emission_entropy": tokens}


def _hybrid_trains(config: BackboneConfig, method: Method) -> Mapping[str, Choice]:
    return {**_latent_trains(config, method), "latent.world": True, "latent.codebook": True}


def _hybrid_flops(
    config: BackboneConfig, latent: LatentConfig, method: Method, pictures: float, reference: bool, **sizes: Any
) -> float:
    return hybrid_update(config, latent, **sizes, reference=reference)


def _token_actions(agent: Agent, method: Method) -> ActionSpace:
    return TokenActions(agent.backbone)


def _token_logps(
    agent: Agent, method: Method, prompts: Batch, rollout: Rollout, sampling: SamplingConfig, remat: Remat
) -> Logps:
    logps, entropies = token_space_logps(agent.backbone, prompts, rollout, sampling, remat)
    return logps, {"entropy": entropies}


def _token_flops(
    config: BackboneConfig, latent: LatentConfig, method: Method, pictures: float, reference: bool, **sizes: Any
) -> float:
    trained = method.trained_blocks(config.text.layers)
    return pictures + token_update(config, trained, True, None, **sizes, reference=reference)


def _token_sft(method: Method) -> Mapping[str, Stage]:
    return {"sft": SFT_TOKEN}


# What only stages 1 to 5 read.
_OF_LEARNING = ("latent.inverse", "latent.back_projector", "latent.projector.log_variance_net")
LATENT = Space(
    "latent",
    _latent_actions,
    _latent_logps,
    _latent_trains,
    _latent_sft,
    "latent",
    coded=True,
    update_flops=_latent_flops,
    frozen_backbone=True,
    unused=_OF_LEARNING,
)
HYBRID = Space(
    "hybrid",
    _hybrid_actions,
    _hybrid_logps,
    _hybrid_trains,
    _latent_sft,
    "latent",
    coded=True,
    update_flops=_hybrid_flops,
    parts=("code_entropy", "emission_entropy"),
    emits=True,
    frozen_backbone=True,
    unused=_OF_LEARNING,
)
TOKEN = Space(
    "token",
    _token_actions,
    _token_logps,
    backbone_top,
    _token_sft,
    "token",
    coded=False,
    update_flops=_token_flops,
    unused=("latent",),
)
SPACES: Mapping[str, Space] = {space.name: space for space in (LATENT, HYBRID, TOKEN)}
SpaceName = Literal["latent", "hybrid", "token"]
PAPER_SPACES: tuple[SpaceName, ...] = ("latent", "token")  # what recipes train unless told otherwise


def require_storage_of(name: str, weights: Storage, spaces: Iterable[Space]) -> None:
    """Refuses rollouts with weights in fewer bits in a space whose update scores by the full ones.

    Raises:
        ValueError: it names `name`, the space and what is expected.
    """
    require_storage(name, weights)
    for space in spaces:
        if weights != "same" and not space.frozen_backbone:
            able = ", ".join(other.name for other in SPACES.values() if other.frozen_backbone)
            raise ValueError(
                f"{name} is {weights!r} in the space {space.name!r}, whose update scores answers by the backbone's own "
                "weights: they would be drawn from another policy, and nothing corrects for that. Expected 'same', or "
                f"no other spaces than {able} (--space {able.partition(',')[0]})."
            )


def require_emission(name: str, sampling: Mapping[str, SamplingConfig], rollouts: bool) -> None:
    """Refuses settings by space of which rollouts would not draw the token under a code, or answers would.

    Raises:
        ValueError: it names `name`, the space and what is expected.
    """
    for space, config in sampling.items():
        wanted = rollouts and SPACES[space].emits
        if (config.emission > 0) != wanted:
            expected = "HybridSampling" if wanted else "SamplingConfig"
            raise ValueError(
                f"{name}[{space!r}] is a {type(config).__name__} with an emission of {config.emission}, expected a "
                f"{expected}: rollouts of the hybrid space draw the token under a code, answers and other spaces not."
            )
