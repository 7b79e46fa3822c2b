"""The mesh of a run: as given, or chosen for its recipe and all devices."""

import contextlib
import dataclasses
import math
from typing import Literal

import jax

from lam_jax.latent.agent import Agent
from lam_jax.nn.weight import structs
from lam_jax.parallel.choose_mesh import Choice, Load, NotDivisibleError, Shape, choose_mesh
from lam_jax.parallel.multihost import gather_json
from lam_jax.pipeline.resources import model_config
from lam_jax.recipe import Recipe
from lam_jax.train.partition import count_parameters, partition
from lam_jax.train.spaces import SPACES
from lam_jax.train.stages import STAGES

MeshShape = Shape | Literal["auto"]


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
