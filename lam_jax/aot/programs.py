"""The programs of the method, each the function that training runs, with abstract inputs."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from lam_jax.aot.abstract import abstract_array, abstract_batch, abstract_state, abstract_weights
from lam_jax.aot.workload import Workload
from lam_jax.latent.config import LATENT_PRESETS
from lam_jax.parallel import ROLLOUT, TRAIN, Rules, use
from lam_jax.qwen.config import QwenConfig
from lam_jax.qwen.presets import PRESETS
from lam_jax.rl import ALGORITHMS
from lam_jax.rollout.agent import Agent
from lam_jax.rollout.engine import RolloutConfig
from lam_jax.rollout.sampling import SamplingConfig
from lam_jax.train.method import METHODS, Method
from lam_jax.train.optimiser import OptimiserConfig, make_optimiser
from lam_jax.train.partition import in_dtype, partition
from lam_jax.train.rl import RLConfig, Space, Taken, action_space, make_update, run_rollout
from lam_jax.train.stages import (
    MixedBatch,
    cloning_loss,
    inverse_loss,
    joint_loss,
    latent_sft_loss,
    projector_loss,
    token_sft_loss,
    trainable_parts,
)
from lam_jax.train.stages.step import Loss, jit_step

LOSSES: Mapping[str, Loss] = {
    "inverse": inverse_loss,
    "projector": projector_loss,
    "joint": joint_loss,
    "cloning": cloning_loss,
    "sft_latent": latent_sft_loss,
    "sft_token": token_sft_loss,
}
STAGES = (*LOSSES, "rollout_latent", "rollout_token", "update_latent", "update_token")
TOP_K = 32  # of the codes, METHOD section 4


@dataclasses.dataclass(frozen=True)
class Program:
    """A jitted function and abstract inputs for it.

    Attributes:
        function: as training calls it.
        arguments: positional ones.
        keywords: static ones.
        resident: everything that the phase keeps on the devices while the program runs, its arguments included.
        mesh: of all arrays.
        rules: under which it is traced.
        while_trips: trips of its data-dependent loop if nothing ends early.
        tokens: that one run of it trains on or produces, padding included.
    """

    function: Any
    arguments: tuple[Any, ...]
    keywords: dict[str, Any]
    resident: Any
    mesh: Mesh
    rules: Rules
    while_trips: int
    tokens: int

    def trace(self) -> Any:
        """The traced program, with its jaxpr."""
        with use(self.mesh, self.rules):
            return self.function.trace(*self.arguments, **self.keywords)


@dataclasses.dataclass(frozen=True)
class Setting:
    """What the programs of one preset have in common: sizes, mesh, workload and method."""

    preset: str
    mesh: Mesh
    work: Workload
    method: Method = dataclasses.field(default_factory=lambda: dataclasses.replace(METHODS["default"], remat=True))

    @property
    def config(self) -> QwenConfig:
        """The backbone's."""
        return PRESETS[self.preset]

    def agent(self, rules: Rules, dtype: Any = None) -> Agent:
        """All weights, abstract."""
        return abstract_weights(Agent.spec(self.config, LATENT_PRESETS[self.preset]), self.mesh, rules, dtype)

    def batch(self, images: bool = True) -> Any:
        """Rows of stages 1 to 5."""
        return abstract_batch(
            self.config, self.work, self.work.rows, self.work.length, self.mesh, TRAIN, "batch", images
        )

    def prompts(self, rules: Rules) -> Any:
        """Prompts of stage 6."""
        work = self.work
        return abstract_batch(self.config, work, work.prompts, work.prompt, self.mesh, rules, "prompts")

    def rl(self, space: Space) -> RLConfig:
        """The released settings of stage 6 at this workload."""
        sampling = SamplingConfig(top_k=TOP_K) if space == "latent" else SamplingConfig()
        rollout = RolloutConfig(samples=self.work.samples, length=self.work.completion, sampling=sampling)
        return RLConfig(ALGORITHMS["grpo"], space, prompts=self.work.prompts, rollout=rollout, remat=True)


def build(stage: str, setting: Setting) -> Program:
    """The program of a stage.

    Raises:
        ValueError: unknown stage, or sizes that do not divide over the mesh.
    """
    if stage not in STAGES:
        raise ValueError(f"Unknown stage {stage!r}: expected one of {STAGES}.")
    if stage in LOSSES:
        return _training(stage, setting)
    kind, _, space = stage.partition("_")
    return _rollout(space, setting) if kind == "rollout" else _update(space, setting)


def _halves(stage: str, setting: Setting) -> tuple[Any, Any]:
    """Float32 masters of what trains, and the rest in the compute dtype."""
    parts = trainable_parts(stage, setting.config, setting.method)
    trainable, frozen = partition(setting.agent(TRAIN), parts)
    return trainable, in_dtype(frozen, setting.config.dtype)


def _training(stage: str, setting: Setting) -> Program:
    optimiser = make_optimiser(OptimiserConfig(lr=1e-4, schedule="cosine"), steps=1000)
    trainable, frozen = _halves(stage, setting)
    batch: Any = setting.batch()
    tokens = setting.work.rows * setting.work.length
    if stage in ("joint", "cloning"):
        batch, tokens = MixedBatch(batch, setting.batch(images=False)), 2 * tokens
    step = jit_step(LOSSES[stage], optimiser, setting.method, noisy=stage in ("inverse", "joint"))
    arguments = (abstract_state(trainable, optimiser, setting.mesh), frozen, batch)
    return Program(step, arguments, {}, arguments, setting.mesh, TRAIN, 1, tokens)


def _held(space: Space, setting: Setting) -> dict[str, Any]:
    """What stage 6 holds between its programs: masters with their optimiser, reference, frozen half, rollout copy."""
    optimiser = make_optimiser(OptimiserConfig(lr=1e-6), steps=100)
    trainable, frozen = _halves(f"rl_{space}", setting)
    return {
        "optimiser": optimiser,
        "state": abstract_state(trainable, optimiser, setting.mesh),
        "frozen": frozen,
        "reference": trainable,
        "rollout": setting.agent(ROLLOUT, setting.config.dtype),
    }


def _rollout(space: Space, setting: Setting) -> Program:
    held, config = _held(space, setting), setting.rl(space)
    prompts = setting.prompts(ROLLOUT)
    shape = (setting.work.prompts, setting.work.samples)
    ids = abstract_array(shape, jnp.int32, ("prompts", "samples"), setting.mesh, ROLLOUT)
    arguments = (action_space(held["rollout"], space, setting.method), prompts, ids, _key(setting.mesh))
    rollout = config.rollout
    resident = (held["state"], held["frozen"], held["reference"], held["rollout"], prompts)
    trips = -(-rollout.length // rollout.segment)
    tokens = setting.work.prompts * setting.work.samples * rollout.length
    return Program(run_rollout, arguments, {"config": rollout}, resident, setting.mesh, ROLLOUT, trips, tokens)


def _update(space: Space, setting: Setting) -> Program:
    held, config = _held(space, setting), setting.rl(space)
    work, mesh = setting.work, setting.mesh
    rolled = _rollout(space, setting)
    with use(mesh, ROLLOUT):
        shapes = jax.eval_shape(lambda *arguments: run_rollout(*arguments, **rolled.keywords), *rolled.arguments)

    def per_sample(leaf: Any) -> Any:
        return abstract_array(leaf.shape, leaf.dtype, ("prompts", "samples"), mesh, TRAIN)

    taken_rollout = jax.tree.map(per_sample, shapes.replace(prompt_hidden=None))
    hidden = shapes.prompt_hidden
    taken = Taken(
        prompts=setting.prompts(TRAIN),
        rollout=taken_rollout.replace(
            prompt_hidden=abstract_array(hidden.shape, hidden.dtype, ("prompts",), mesh, TRAIN)
        ),
        advantages=abstract_array((work.prompts, work.samples), jnp.float32, ("prompts", "samples"), mesh, TRAIN),
        mask=per_sample(shapes.mask),
    )
    update = make_update(config, setting.method, held["optimiser"])
    arguments = (held["state"], held["frozen"], held["reference"], taken)
    tokens = work.prompts * work.samples * work.completion
    return Program(update, arguments, {}, (arguments, held["rollout"]), mesh, TRAIN, 1, tokens)


def _key(mesh: Mesh) -> Any:
    key = jax.eval_shape(lambda: jax.random.key(0))
    return jax.ShapeDtypeStruct((), key.dtype, sharding=NamedSharding(mesh, PartitionSpec()))
