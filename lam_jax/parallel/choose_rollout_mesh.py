"""Which mesh rollouts use, over the same devices as training: the one whose decode steps cost least.

Decoding reads weights and caches for every token, and of the axes only `tensor` shards the weights that it reads. A
step on a mesh costs, in seconds on one device,

    (weights / tensor + caches of its prompts and samples) / memory bandwidth
    + sums * (latency + 2 (tensor - 1) / tensor * bytes of its samples' activations / link bandwidth)

`data` divides prompts and `fsdp` the samples of each. Of the caches a device reads the kv heads that its own heads want:
the share of one, at least, though it holds them all where `tensor` does not divide them. Latencies grow with `tensor`, see `lam_jax.parallel.chips`. Prefill, products
at peak rate and the moves of weights between the two meshes are left out.

Of devices whose figures are not known, such as a CPU's, nothing is reckoned: rollouts stay on the mesh of training.
"""

import dataclasses
import math
from typing import Literal

from lam_jax.errors import BadSettingError
from lam_jax.parallel.chips import Chip
from lam_jax.parallel.choose_mesh import ROLLOUT_SHARE, Choice, Load, Shape, mesh_shapes, problems_of
from lam_jax.parallel.mesh import AXES
from lam_jax.parallel.rules import ROLLOUT

RolloutMesh = Shape | Literal["auto", "same"]
# A little faster is not worth a second placement of the weights.
WORTH = 0.95


@dataclasses.dataclass(frozen=True)
class Decoding:
    """What the decode steps of a rollout read and send, on all devices together.

    Attributes:
        weights: bytes of all weights that a step reads.
        position: bytes of keys and values of one token.
        kv_heads: that the caches have.
        prompts, samples: of the rollout, and of each prompt.
        prompt, completion: tokens.
        sums: sums over `tensor` that a step waits for, one after the other.
        sum_bytes: of one sample in a sum.
    """

    weights: float
    position: float
    kv_heads: int
    prompts: int
    samples: int
    prompt: int
    completion: int
    sums: int
    sum_bytes: float


@dataclasses.dataclass(frozen=True)
class StepCost:
    """Seconds of a decode step."""

    reading: float
    latency: float
    sending: float

    @property
    def total(self) -> float:
        """All of it; nothing overlaps."""
        return self.reading + self.latency + self.sending


def step_cost(shape: Shape, decoding: Decoding, chip: Chip, per_host: int | None = None) -> StepCost:
    """What a decode step costs on a mesh.

    Args:
        shape: of the mesh.
        decoding: what a step has to do.
        chip: that the mesh is made of.
        per_host: cards of a host; None: of TPUs, or all in one.
    """
    data, fsdp, tensor = shape
    prompts, samples = math.ceil(decoding.prompts / data), math.ceil(decoding.samples / fsdp)
    positions = prompts * (decoding.prompt + samples * (decoding.completion + 1) / 2)
    shards = math.gcd(decoding.kv_heads, tensor)
    reading = (decoding.weights / tensor + decoding.position * positions / shards) / chip.hbm_bandwidth
    if tensor == 1:
        return StepCost(reading, 0.0, 0.0)
    hosts = math.ceil(tensor / per_host) if per_host else 1
    link = chip.link_bandwidth
    if hosts > 1:
        link = min(link, tensor // hosts * chip.network_bandwidth)
    latency = chip.latency("all-reduce", chip.box(tensor), hosts)
    sent = 2 * (tensor - 1) / tensor * prompts * samples * decoding.sum_bytes / link
    return StepCost(reading, decoding.sums * latency, decoding.sums * sent)


def check_rollout_mesh(shape: Shape, training: Shape, load: Load) -> None:
    """Refuses a mesh that rollouts could not run on beside training.

    Raises:
        BadSettingError: another number of devices than training's mesh has, or sizes that do not divide.
    """
    if math.prod(shape) != math.prod(training):
        given, there = (" x ".join(f"{axis} {size}" for axis, size in zip(AXES, s)) for s in (shape, training))
        raise BadSettingError(
            f"Rollout mesh {given} has {math.prod(shape)} devices, but the mesh of training, {there}, has "
            f"{math.prod(training)}: both lie on the same devices. Choose three sizes whose product is "
            f"{math.prod(training)}."
        )
    if found := list(dict.fromkeys(problems_of(shape, load, (ROLLOUT,)))):
        sizes = dict(zip(AXES, shape))
        raise BadSettingError(f"Rollout mesh {sizes} does not fit:\n" + "\n".join(f"- {text}" for text in found))


def choose_rollout_mesh(
    load: Load,
    decoding: Decoding,
    training: Shape,
    chip: Chip | None,
    memory: int | None = None,
    per_host: int | None = None,
) -> Choice:
    """The mesh of rollouts, by their cost; that of training where another would save little.

    Args:
        load: what has to divide.
        decoding: what a step has to do.
        training: the mesh of training.
        chip: figures of the devices; None: they are not known.
        memory: bytes of a device; None: no limit is known.
        per_host: as of `step_cost`.
    """
    if chip is None:
        return Choice(training, ("that of training, since nothing is known of these devices",))
    total = sum(math.prod(weight.shape) for weight in load.weights) * load.compute_bytes

    def holds(shape: Shape) -> bool:
        room = memory is None or total / shape[2] <= ROLLOUT_SHARE * memory
        return room and not any(problems_of(shape, load, (ROLLOUT,)))

    costs = {
        shape: step_cost(shape, decoding, chip, per_host)
        for shape in mesh_shapes(math.prod(training))
        if shape == training or holds(shape)
    }
    best = min(costs, key=lambda shape: (costs[shape].total, shape[2], shape[1]))
    now = costs[training]
    if costs[best].total > WORTH * now.total:
        return Choice(training, (f"that of training, {_told(now)}; the best other one saves too little",))
    return Choice(best, (_told(costs[best]), f"on the mesh of training {_told(now)}"))


def _told(cost: StepCost) -> str:
    return (
        f"a decode step takes {cost.total * 1e3:.2f} ms, {cost.reading * 1e3:.2f} to read weights and caches, "
        f"{cost.latency * 1e3:.2f} of latency, {cost.sending * 1e3:.2f} to send"
    )
