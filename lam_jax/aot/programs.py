"""The programs of the method, each the function that training runs, with abstract inputs."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from lam_jax.aot.abstract import abstract_array, abstract_batch, abstract_key, abstract_state, abstract_weights
from lam_jax.aot.workload import Workload
from lam_jax.latent.agent import Agent
from lam_jax.latent.config import LATENT_PRESETS, LatentConfig
from lam_jax.models.config import BackboneConfig
from lam_jax.models.families import PRESETS
from lam_jax.nn.stored import Storage
from lam_jax.nn.weight import structs
from lam_jax.parallel import ROLLOUT, TRAIN, UPDATE, Rules
from lam_jax.parallel.choose_layout import choose_layout
from lam_jax.parallel.choose_mesh import Load
from lam_jax.parallel.choose_rollout_mesh import rollout_shape
from lam_jax.parallel.parked import is_used_up
from lam_jax.rl import ALGORITHMS, Algorithm
from lam_jax.rollout.engine import RolloutConfig
from lam_jax.rollout.run import jitted
from lam_jax.rollout.sampling import HybridSampling, SamplingConfig
from lam_jax.train.counting import decoding_of
from lam_jax.train.method import METHODS, Method
from lam_jax.train.optimiser import Optimiser, OptimiserConfig, make_optimiser
from lam_jax.train.partition import count_parameters, in_dtype, partition
from lam_jax.train.rl_batch import RLBatch
from lam_jax.train.rl_config import RLConfig
from lam_jax.train.rl_held import Frozen, for_rollouts, hold_frozen, hold_reference
from lam_jax.train.rl_update import Update
from lam_jax.train.spaces import SPACES, Space
from lam_jax.train.stages import SFT_LATENT, SFT_LEARN, MixedBatch, Stage, Step
from lam_jax.train.stages import STAGES as DEFAULT_STAGES
from lam_jax.train.stages.stage import Trains
from lam_jax.train.state import TrainState

TRAINED: Mapping[str, Stage] = {**DEFAULT_STAGES, SFT_LEARN.name: SFT_LEARN}
STAGES = (*TRAINED, *(f"{kind}_{space}" for kind in ("rollout", "update") for space in SPACES))
# method.md section 4; in other spaces nothing is cut off.
SAMPLING = {"latent": SamplingConfig(top_k=32), "hybrid": HybridSampling(top_k=32)}
STAGE_STEPS = 1000  # of the schedule
# Large models are trained with recomputed activations.
LEAN = dataclasses.replace(METHODS["default"], remat=True)


@dataclasses.dataclass(frozen=True)
class Program:
    """A training program and abstract inputs for it.

    Attributes:
        trace: traces the jitted function.
        arguments: of the jitted function, static ones left out.
        resident: everything that the phase keeps on the devices while the program runs, its arguments included.
        while_trips: trips of its data-dependent loop if nothing ends early.
        tokens: that one run of it trains on or produces, padding included.
        mesh: that it runs on.
        decode: what its data-dependent loop decodes; None: it does not.
    """

    trace: Callable[[], jax.stages.Traced]
    arguments: tuple[Any, ...]
    resident: Any
    while_trips: int
    tokens: int
    mesh: Mesh
    decode: "Decoding | None" = None


@dataclasses.dataclass(frozen=True)
class Decoding:
    """The decode loop of a rollout.

    Attributes:
        steps: of all its trips; each step makes one token of every sample.
        floor: bytes that a chip has to read at least in a step.
    """

    steps: int
    floor: float


@dataclasses.dataclass(frozen=True)
class Setting:
    """What the programs of one model have in common: sizes, mesh, workload and method.

    Attributes:
        preset: name of the sizes; that of a preset, unless `backbone` and `latent` are given.
        mesh: that they run on, but rollouts where they have their own.
        work: rows, prompts and lengths.
        method: switches.
        backbone, latent: sizes of another model than the preset.
        algorithm: of updates.
        rollout_weights: as in `lam_jax.recipe.RLSettings`.
        rollout_mesh: of rollouts, of the devices of `mesh` in their order; None: `mesh`.
    """

    preset: str
    mesh: Mesh
    work: Workload
    method: Method = LEAN
    backbone: BackboneConfig | None = None
    latent: LatentConfig | None = None
    algorithm: Algorithm = ALGORITHMS["grpo"]
    rollout_weights: Storage = "same"
    rollout_mesh: Mesh | None = None

    @property
    def rolls_on(self) -> Mesh:
        """The mesh of rollouts."""
        return self.rollout_mesh or self.mesh

    def mesh_of(self, rules: Rules) -> Mesh:
        """The mesh on which a rules table is used."""
        return self.rolls_on if rules is ROLLOUT else self.mesh

    @property
    def config(self) -> BackboneConfig:
        """The backbone's."""
        return self.backbone or PRESETS[self.preset]

    def agent(self, rules: Rules, dtype: Any = None) -> Agent:
        """All weights, abstract."""
        return abstract_weights(
            Agent.spec(self.config, self.latent or LATENT_PRESETS[self.preset]), self.mesh_of(rules), rules, dtype
        )

    def batch(self, images: bool = True) -> Any:
        """Rows of stages 1 to 5."""
        work = self.work
        return abstract_batch(self.config, work, work.rows, work.length, self.mesh, TRAIN, images)

    def prompts(self, rules: Rules) -> Any:
        """Prompts of stage 6; those of rollouts filled up to their mesh."""
        mesh, count = self.mesh_of(rules), self.rolled_prompts if rules is ROLLOUT else self.work.prompts
        return abstract_batch(self.config, self.work, count, self.work.prompt, mesh, rules)

    @property
    def rolled_prompts(self) -> int:
        """Prompts of a rollout, filled up to its own mesh where it has one."""
        shards = self.mesh_of(ROLLOUT).shape["data"] if self.rollout_mesh else 1
        return -(-self.work.prompts // shards) * shards

    def rl(self, space: Space) -> RLConfig:
        """The released settings of stage 6 at this workload."""
        sampling = SAMPLING.get(space.name, SamplingConfig())
        rollout = RolloutConfig(self.work.samples, self.work.completion, sampling, weights=self.rollout_weights)
        parts, remat = self.work.micro_batches, self.method.remat
        return RLConfig(
            self.algorithm, space, prompts=self.work.prompts, rollout=rollout, remat=remat, micro_batches=parts
        )


def load_of(preset: str, work: Workload, config: BackboneConfig | None = None) -> Load:
    """What a mesh for all stages has to carry; of the stages, latent SFT trains most."""
    config = config or PRESETS[preset]
    specs = Agent.spec(config, LATENT_PRESETS[preset])
    trained, _ = partition(structs(specs), SFT_LATENT.trains(config, LEAN))
    sizes = {"rows": work.rows, "prompts": work.prompts, "samples": work.samples}
    return Load(specs, count_parameters(trained), **sizes, compute_bytes=config.dtype.itemsize)


def build(stage: str, setting: Setting) -> Program:
    """The program of a stage.

    Raises:
        ValueError: unknown stage, or sizes that do not divide over the mesh.
    """
    if stage not in STAGES:
        raise ValueError(f"Unknown stage {stage!r}: expected one of {STAGES}.")
    if stage in TRAINED:
        return build_stage(TRAINED[stage], setting)
    kind, _, space = stage.partition("_")
    return {"rollout": _rollout, "update": _update}[kind](SPACES[space], setting)


def _halves(trains: Trains, setting: Setting) -> tuple[Any, Any]:
    """Float32 masters of what trains, and the rest in the compute dtype."""
    trainable, frozen = partition(setting.agent(TRAIN), trains(setting.config, setting.method))
    return trainable, in_dtype(frozen, setting.config.dtype)


def build_stage(stage: Stage, setting: Setting) -> Program:
    """The program of one of stages 1 to 5."""
    optimiser = make_optimiser(OptimiserConfig(lr=1e-4, schedule="cosine"), steps=STAGE_STEPS)
    trainable, frozen = _halves(stage.trains, setting)
    batch: Any = setting.batch()
    tokens = setting.work.rows * setting.work.length
    if stage.mixed:
        batch, tokens = MixedBatch(batch, setting.batch(images=False)), 2 * tokens
    step = Step(stage, frozen, optimiser, setting.method, steps=STAGE_STEPS)
    state = abstract_state(trainable, optimiser)
    arguments = (state, frozen, batch)
    return Program(lambda: step.trace(state, batch), arguments, arguments, 1, tokens, setting.mesh)


@dataclasses.dataclass(frozen=True)
class _Held:
    """What stage 6 keeps on the devices all the time, by the functions that make it in a run."""

    state: TrainState
    frozen: Frozen
    reference: Agent
    shared: tuple[Agent, ...]  # what the run holds, too, since stage 6 may not take its memory


def _held(space: Space, setting: Setting, optimiser: Optimiser) -> _Held:
    trainable, frozen = partition(setting.agent(TRAIN), space.trains(setting.config, setting.method))
    used_up = is_used_up(frozen, setting.config.dtype)
    release = (lambda leaf: None) if used_up else None
    held = hold_frozen(frozen, space, choose_layout(setting.mesh), release, setting.rollout_mesh)
    copied = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), trainable)
    state = abstract_state(copied, optimiser)
    return _Held(state, held, hold_reference(trainable, setting.algorithm), () if used_up else (trainable, frozen))


def _distinct(*trees: Any) -> list[Any]:
    """The leaves of trees, those once that are the same: they share their memory."""
    return list({id(leaf): leaf for leaf in jax.tree.leaves(trees)}.values())


def _rollout(space: Space, setting: Setting) -> Program:
    work, mesh, config = setting.work, setting.rolls_on, setting.rl(space).rollout
    held = _held(space, setting, _rl_optimiser())
    ids = abstract_array((setting.rolled_prompts, work.samples), jnp.int32, ("prompts", "samples"), mesh, ROLLOUT)
    arguments = (
        space.actions(for_rollouts(held.state.trainable, held.frozen.rollouts), setting.method),
        setting.prompts(ROLLOUT),
        ids,
        abstract_key(NamedSharding(mesh, PartitionSpec())),
    )
    trips = -(-config.length // config.segment)
    return Program(
        trace=lambda: jitted.trace(*arguments, config=config, mesh=mesh, layout=choose_layout(mesh)),
        arguments=arguments,
        # Trained weights are put together anew for each rollout, with the frozen rows of theirs; the others are shared.
        resident=_distinct(held.state, held.frozen, held.reference, held.shared, arguments),
        while_trips=trips,
        tokens=work.prompts * work.samples * config.length,
        mesh=mesh,
        decode=Decoding(trips * config.segment, _decode_floor(space, setting)),
    )


def _decode_floor(space: Space, setting: Setting) -> float:
    """Bytes that a step reads at least on one chip."""
    work, blocks = setting.work, setting.rollout_weights
    latent = setting.latent or LATENT_PRESETS[setting.preset]
    sizes = (work.prompts, work.samples, work.prompt, work.completion)
    head = "same" if space.emits else blocks
    decoding = decoding_of(setting.config, latent if space.coded else None, sizes, blocks, head)
    return decoding.bytes_read(rollout_shape(tuple(setting.rolls_on.shape.values())))


def _update(space: Space, setting: Setting) -> Program:
    work, optimiser = setting.work, _rl_optimiser()
    held, config = _held(space, setting, optimiser), setting.rl(space)
    frozen, batch = held.frozen.updates, _batch(space, setting)
    update = Update(config, setting.method, optimiser, frozen, held.reference)
    arguments = (held.state, frozen, held.reference, batch)
    return Program(
        trace=lambda: update.trace(held.state, batch),
        arguments=arguments,
        resident=_distinct(arguments, held.frozen, held.shared),
        while_trips=1,
        tokens=work.prompts * work.samples * work.completion,
        mesh=setting.mesh,
    )


def _batch(space: Space, setting: Setting) -> RLBatch:
    """A rewarded rollout, placed as the rollout program leaves it."""
    work, mesh = setting.work, setting.mesh
    out = _rollout(space, setting).trace().out_info

    def placed(leaf: Any, *axes: str) -> Any:
        return abstract_array((work.prompts, *leaf.shape[1:]), leaf.dtype, axes, mesh, UPDATE)

    samples = jax.tree.map(lambda leaf: placed(leaf, "prompts", "samples"), out.replace(prompt_hidden=None))
    return RLBatch(
        prompts=setting.prompts(UPDATE),
        rollout=samples.replace(prompt_hidden=placed(out.prompt_hidden, "prompts")),
        advantages=abstract_array((work.prompts, work.samples), jnp.float32, ("prompts", "samples"), mesh, UPDATE),
        mask=samples.mask,
    )


def _rl_optimiser() -> Optimiser:
    return make_optimiser(OptimiserConfig(lr=1e-6), steps=100)
