"""The meshes of a run, of training and of its rollouts: as given, or chosen for its recipe and all devices."""

import contextlib
import dataclasses
import math
from typing import Literal, NamedTuple

import jax
from jax.sharding import Mesh

from lam_jax.latent.agent import Agent
from lam_jax.nn.weight import structs
from lam_jax.parallel.cards import chip_of_kind
from lam_jax.parallel.choose_mesh import Choice, Load, NotDivisibleError, Shape, choose_mesh
from lam_jax.parallel.choose_rollout_mesh import (
    RolloutChoice,
    RolloutMesh,
    check_rollout_mesh,
    choose_rollout_mesh,
    rollout_shape,
)
from lam_jax.parallel.mesh import places_of, reshaped
from lam_jax.parallel.multihost import gather_json
from lam_jax.pipeline.resources import model_config
from lam_jax.recipe import Recipe
from lam_jax.tasks.episodes import EpisodeTask
from lam_jax.train.counting import decoding_of
from lam_jax.train.partition import count_parameters, partition
from lam_jax.train.spaces import SPACES
from lam_jax.train.stages import STAGES

MeshShape = Shape | Literal["auto"]


class Meshes(NamedTuple):
    """Of the same devices in the same order."""

    training: Mesh
    rollouts: Mesh


def load_of(recipe: Recipe) -> Load:
    """What a mesh for all of a recipe's phases has to carry."""
    config = model_config(recipe.model)
    specs = Agent.spec(config, recipe.latent)
    trains = [stage.trains for stage in STAGES.values()]
    for space in (SPACES[name] for name in recipe.spaces):
        trains += [space.trains, *(stage.trains for stage in space.sft(recipe.method).values())]
    shapes = structs(specs)
    trained = (count_parameters(partition(shapes, choose(config, recipe.method))[0]) for choose in trains)
    stages = (recipe.inverse, recipe.projector, recipe.joint, recipe.cloning, recipe.sft)
    rows = math.gcd(recipe.evaluation.held_out, *(stage.rows // stage.micro_batches for stage in stages))
    return Load(
        specs,
        max(trained),
        rows=rows,
        prompts=recipe.rl.prompts,
        samples=recipe.rl.samples,
        compute_bytes=config.dtype.itemsize,
    )


def device_memory() -> int | None:
    """Bytes of the smallest device of the run, the same on every process; None if they do not tell (CPU).

    A process can ask its own devices only.
    """
    own = [(device.memory_stats() or {}).get("bytes_limit") for device in jax.local_devices()]
    told = [limit for process in gather_json(own) for limit in process if limit is not None]
    return min(told, default=None)


def mesh_for(recipe: Recipe) -> Choice:
    """A mesh of all devices of all processes, or, of one process's devices, of as many as the batches divide over.

    Raises:
        ValueError: the devices cannot be divided for this recipe; the message says what to change.
    """
    devices = jax.devices()
    if len(devices) == 1:
        return Choice((1, 1, 1), ("there is one device",))
    load, memory = load_of(recipe), device_memory()
    try:
        return choose_mesh(load, len(devices), memory)
    except NotDivisibleError:
        if jax.process_count() > 1:
            raise
    for count in range(len(devices) - 1, 1, -1):
        with contextlib.suppress(NotDivisibleError):
            choice = choose_mesh(load, count, memory)
            left = f"{len(devices) - count} of {len(devices)} devices idle: the batches divide over no mesh of more"
            return dataclasses.replace(choice, reasons=(*choice.reasons, left))
    return Choice((1, 1, 1), ("the batches divide over no mesh of several devices",))


def rollout_mesh_for(recipe: Recipe, training: Mesh, asked: RolloutMesh) -> RolloutChoice:
    """The mesh of a run's rollouts, validation and scored answers included; every process has to call it.

    Raises:
        BadSettingError: it has other devices than training, or does not fit the recipe.
    """
    sizes = training.shape
    shape = (sizes["data"], sizes["fsdp"], sizes["tensor"])
    if asked == "same" or not recipe.tasks or (asked == "auto" and training.size == 1):
        return RolloutChoice(rollout_shape(shape), ("that of training",))
    load = load_of(recipe)
    if asked != "auto":
        check_rollout_mesh(asked, shape, load)
        return RolloutChoice(rollout_shape(asked), ("as asked for",))
    if any(isinstance(task, EpisodeTask) for task in recipe.tasks):
        return RolloutChoice(
            rollout_shape(shape), ("that of training: a game's answers are one sample each, which is not divided",)
        )
    rl, task = recipe.rl, max(recipe.tasks, key=lambda task: task.answer_length)
    coded = any(SPACES[name].coded for name in recipe.spaces)
    decoding = decoding_of(
        model_config(recipe.model),
        recipe.latent if coded else None,
        (rl.prompts, rl.samples, task.prompt_lengths[-1], task.answer_length),
        rl.rollout_weights,
    )
    chip = chip_of_kind(training.devices.flat[0].device_kind)
    per_host = jax.local_device_count() if chip is not None and math.isfinite(chip.network_bandwidth) else None
    return choose_rollout_mesh(load, decoding, shape, chip, device_memory(), per_host, places_of(training))


def meshes_of(recipe: Recipe, training: Mesh, asked: RolloutMesh) -> tuple[Meshes, RolloutChoice | None]:
    """Both meshes, and how that of rollouts was chosen where it is another one."""
    choice = rollout_mesh_for(recipe, training, asked)
    rollouts = reshaped(training, choice.shape)
    return Meshes(training, rollouts), None if rollouts == training else choice
