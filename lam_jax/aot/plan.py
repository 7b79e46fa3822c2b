"""What a recipe will do, before it does it: phases, sizes, memory of the weights, operations, and a rough time.

Operations are counted in the programs that will run, traced with abstract inputs; nothing is compiled. The time is what
those take at the matmul rate and, for decoding, at the memory bandwidth that are measured here on the first device,
divided by the shares of them that `benchmarks` reached (README, "Speed"): a rough figure, and without compilation.
"""

import dataclasses
import time
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from rich.console import Console
from rich.table import Table

from lam_jax.aot.abstract import bytes_per_chip
from lam_jax.aot.flops import count_flops
from lam_jax.aot.programs import Program, Setting, build, build_stage
from lam_jax.aot.workload import Workload
from lam_jax.errors import BadSettingError
from lam_jax.evaluation.reach_settings import ReachSettings
from lam_jax.latent.agent import Agent
from lam_jax.nn.stored import Storage
from lam_jax.nn.weight import count, structs
from lam_jax.pipeline.phases import (
    STAGE_PHASES,
    is_scored,
    reach_after_rl_phase,
    reach_phase,
    rl_phase,
    scores_phase,
    sft_phases,
)
from lam_jax.pipeline.resources import Resources
from lam_jax.recipe import PAIRED, Recipe, StageSettings
from lam_jax.runs.progress import duration
from lam_jax.tasks.episodes import EpisodeTask
from lam_jax.tasks.task import Task
from lam_jax.train.partition import count_parameters, partition
from lam_jax.train.spaces import SPACES, Space
from lam_jax.train.stages import Stage

# Reached at `mid` on a CPU: share of the matmul rate in training, and decoding's time over reading its bytes once.
TRAINING_SHARE, DECODE_OVER_FLOOR = 0.75, 1.7


@dataclasses.dataclass(frozen=True)
class PlannedPhase:
    """One phase.

    Attributes:
        name: as in the run.
        runs: how often its program runs.
        size: what a run works on: rows x tokens, or prompts x samples x tokens of prompt + answer.
        trained: parameters that train; 0: none.
        flops: operations of a run, on all devices.
        decode_bytes: weights and caches that decoding reads in a run, on one device.
        memory: bytes of weights, gradients' moments and inputs on one device; activations come on top.
    """

    name: str
    runs: int
    size: str
    trained: int = 0
    flops: int = 0
    decode_bytes: int = 0
    memory: int = 0


@dataclasses.dataclass(frozen=True)
class Rates:
    """Of one device, measured: matmul operations and bytes a second."""

    flops: float
    bandwidth: float


def measure_rates(dtype: Any, size: int = 2048, repeats: int = 3) -> Rates:
    """The best of a few products of two [size, size] matrices, and of reading 256 MB."""
    square = jnp.ones((size, size), dtype)
    long = jnp.ones((1 << 26,), jnp.float32)
    product, total = jax.jit(lambda x: x @ x), jax.jit(jnp.sum)
    return Rates(2 * size**3 / _best(product, square, repeats), long.nbytes / _best(total, long, repeats))


def _best(function: Any, argument: Any, repeats: int) -> float:
    jax.block_until_ready(function(argument))
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        jax.block_until_ready(function(argument))
        times.append(time.perf_counter() - began)
    return min(times)


def plan_of(resources: Resources) -> list[PlannedPhase]:
    """The phases that train or roll out, in order.

    Raises:
        ValueError: sizes that do not divide over the mesh.
        BadSettingError: a task that is played turn by turn, whose conversations grow.
    """
    if played := [task.name for task in resources.recipe.tasks if isinstance(task, EpisodeTask)]:
        raise BadSettingError(
            f"--dry-run: found task {played[0]!r}, which is played turn by turn; expected tasks of one answer a "
            "prompt, which are all that is planned. Leave the task out, or run it."
        )
    # Spaces that share their SFT name its phases each.
    return list({phase.name: phase for phase in _Planner(resources).phases()}.values())


@dataclasses.dataclass(frozen=True)
class _Planner:
    resources: Resources

    @property
    def recipe(self) -> Recipe:
        return self.resources.recipe

    def phases(self) -> Iterator[PlannedPhase]:
        recipe = self.recipe
        paired = len(self.resources.examples(PAIRED, recipe.paired.train))
        for phase, stage in STAGE_PHASES.items():
            yield self._stage(phase, stage, getattr(recipe, stage.name), paired, recipe.paired.lengths[-1])
        for task in recipe.tasks:
            for space in (SPACES[name] for name in recipe.spaces):
                yield from self._task(task, space)

    def _task(self, task: Task, space: Space) -> Iterator[PlannedPhase]:
        recipe = self.recipe
        rows = len(self.resources.examples(task.name, task.sft))
        for phase, stage in sft_phases(task.name, space, recipe.method).items():
            yield self._stage(phase, stage, recipe.sft, rows, task.chat_lengths[-1])
        reach = recipe.evaluation.reach
        probed = reach if reach is not None and is_scored(reach, task) else None
        yield self._scores("sft", task, space)
        if probed:
            yield self._reach(probed, task, space, reach_phase(task.name, space))
        yield self._rl(task, space)
        yield self._scores("rl", task, space)
        if probed:
            yield self._reach(probed, task, space, reach_after_rl_phase(task.name, space))

    def _setting(self, **sizes: Any) -> Setting:
        recipe, resources = self.recipe, self.resources
        work = Workload(**{"rows": 1, "prompts": 1, "image": recipe.image.size} | sizes)
        return Setting(
            recipe.name,
            resources.mesh,
            work,
            recipe.method,
            resources.config,
            recipe.latent,
            rollout_mesh=resources.rollout_mesh,
        )

    def _stage(self, phase: str, stage: Stage, settings: StageSettings, rows: int, length: int) -> PlannedPhase:
        setting = self._setting(
            rows=settings.rows // settings.micro_batches, prompt=length // 2, completion=length - length // 2
        )
        program = build_stage(stage, setting)
        trained, _ = partition(
            structs(Agent.spec(setting.config, self.recipe.latent)), stage.trains(setting.config, setting.method)
        )
        steps = settings.steps_of(rows)
        size = f"{settings.rows}{'+' + str(settings.rows) if stage.mixed else ''} x {length}"
        return PlannedPhase(
            phase,
            steps,
            size,
            count_parameters(trained),
            settings.micro_batches * _flops(program),
            memory=bytes_per_chip(program.resident),
        )

    def _rl(self, task: Task, space: Space) -> PlannedPhase:
        rl = self.recipe.rl
        rollout, update = (
            self._rl_program(kind, task, space, rl.prompts, rl.samples) for kind in ("rollout", "update")
        )
        config = self.resources.config
        trained, _ = partition(
            structs(Agent.spec(config, self.recipe.latent)), space.trains(config, self.recipe.method)
        )
        held = self._rl_program("rollout", task, space, rl.prompts, rl.samples, rl.rollout_weights)
        fewer = 0.0 if held.decode is None or rollout.decode is None else rollout.decode.floor - held.decode.floor
        return PlannedPhase(
            rl_phase(task.name, space),
            rl.steps,
            f"{rl.prompts} x {rl.samples} x {task.prompt_lengths[-1]}+{task.answer_length}",
            count_parameters(trained),
            _flops(rollout) + rl.epochs * _flops(update),
            self._decode_bytes(rollout, task) - round(fewer * task.answer_length),
            max(bytes_per_chip(rollout.resident), bytes_per_chip(update.resident)),
        )

    def _scores(self, phase: str, task: Task, space: Space) -> PlannedPhase:
        settings = self.recipe.evaluation
        tests = [
            len(self.resources.examples(task.name, scored.split)[: settings.prompts]) for scored in task.tests.values()
        ]
        fixed = min(settings.gain_prompts, len(self.resources.examples(task.name, task.rl)))
        answers = (
            sum(answer_set.samples for answer_set in settings.answers) * sum(tests) + settings.gain_samples * fixed
        )
        samples = settings.answers[0].samples
        batch = min(settings.batch, max(*tests, fixed))
        shards = (self.resources.rollout_mesh or self.resources.mesh).shape["data"]
        program = self._rl_program("rollout", task, space, -(-batch // shards) * shards, samples)
        return PlannedPhase(
            scores_phase(phase, task.name, space),
            -(-answers // (batch * samples)),
            f"{batch} x {samples} x {task.prompt_lengths[-1]}+{task.answer_length}",
            flops=_flops(program),
            decode_bytes=self._decode_bytes(program, task),
            memory=bytes_per_chip(program.arguments),
        )

    def _reach(self, settings: ReachSettings, task: Task, space: Space, phase: str) -> PlannedPhase:
        """Answers by the policy and, in a space of codes, under random codes; the look along references is left out."""
        prompts = self.recipe.rl.prompts
        rows = min(settings.prompts, len(self.resources.examples(task.name, task.val)))
        program = self._rl_program("rollout", task, space, prompts, settings.samples)
        return PlannedPhase(
            phase,
            -(-rows // prompts) * (1 + space.coded),
            f"{prompts} x {settings.samples} x {task.prompt_lengths[-1]}+{task.answer_length}",
            flops=_flops(program),
            decode_bytes=self._decode_bytes(program, task),
            memory=bytes_per_chip(program.arguments),
        )

    def _rl_program(
        self, kind: str, task: Task, space: Space, prompts: int, samples: int, weights: Storage = "same"
    ) -> Program:
        mesh = self.resources.mesh if kind == "update" else self.resources.rollout_mesh or self.resources.mesh
        fsdp = mesh.shape["fsdp"]
        sizes = {"prompts": prompts, "samples": -(-samples // fsdp) * fsdp}
        setting = self._setting(**sizes, prompt=task.prompt_lengths[-1], completion=task.answer_length)
        algorithm = self.recipe.rl.algorithm_of(task.name)
        return build(f"{kind}_{space.name}", dataclasses.replace(setting, rollout_weights=weights, algorithm=algorithm))

    def _decode_bytes(self, rollout: Program, task: Task) -> int:
        return bytes_per_chip(rollout.arguments[0]) * task.answer_length


def _flops(program: Program) -> int:
    return count_flops(program.trace().jaxpr, program.while_trips)


def show_plan(resources: Resources, console: Console) -> None:
    """Prints the plan of an opened recipe."""
    recipe, mesh, config = resources.recipe, resources.mesh, resources.config
    agent = Agent.spec(config, recipe.latent)
    console.print(
        f"recipe {recipe.name}: model {recipe.model.folder}, {count(agent.backbone) / 1e6:,.1f} million weights, "
        f"{count(agent.latent) / 1e6:,.1f} million more in the latent modules ({recipe.latent.codes} codes), "
        f"compute in {config.dtype.name}",
        soft_wrap=True,
        highlight=False,
    )
    rates = measure_rates(config.dtype)
    console.print(
        f"mesh {', '.join(f'{axis} {size}' for axis, size in mesh.shape.items())}; a device, measured: "
        f"{rates.flops / 1e9:,.0f} billion operations and {rates.bandwidth / 1e9:,.1f} GB a second",
        soft_wrap=True,
        highlight=False,
    )
    table = Table(box=None)
    for name in ("phase", "rows x tokens", "steps", "M trained", "GB", "about"):
        table.add_column(
            name, justify="left" if name in ("phase", "rows x tokens") else "right", no_wrap=name == "phase"
        )
    total = 0.0
    for phase in plan_of(resources):
        seconds = seconds_of(phase, rates, mesh)
        total += seconds
        table.add_row(
            phase.name,
            phase.size,
            f"{phase.runs:,}",
            f"{phase.trained / 1e6:,.1f}" if phase.trained else "",
            f"{phase.memory / 1e9:,.2f}",
            duration(seconds),
        )
    console.print(table)
    console.print(
        f"about {duration(total)} in all, compilation left out: operations at {TRAINING_SHARE:.0%} of the measured "
        f"rate, decoding at {DECODE_OVER_FLOOR} times the reading of its weights, which is what the benchmarks gave on "
        "a CPU. M trained: millions of weights. GB: weights, moments and inputs on one device; activations come on top "
        "(`lam-jax compile` counts them for TPUs and NVIDIA cards).",
        soft_wrap=True,
        highlight=False,
    )


def seconds_of(phase: PlannedPhase, rates: Rates, mesh: Mesh) -> float:
    """The rough time of a phase."""
    computing = phase.flops / mesh.size / rates.flops / TRAINING_SHARE
    return phase.runs * (computing + DECODE_OVER_FLOOR * phase.decode_bytes / rates.bandwidth)
