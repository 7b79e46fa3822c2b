"""Which mesh rollouts use, over the same devices as training: the one whose decode steps cost least.

Decoding reads weights and caches for every token. Of the axes of a mesh of rollouts (`lam_jax.parallel.rules`)

| axis | divides |
|---|---|
| `data` | prompts, with their caches |
| `fsdp` | samples of a prompt, with their caches |
| `wide` | these too, and weights that are not attention's |
| `tensor` | all weights, and caches by kv heads as far as there are some |

A step costs, in seconds on one device, what it reads at the bandwidth of its memory, and what it waits for in
collectives, each a latency and its bytes at the rate of the links; nothing overlaps:

    (attention / tensor + other weights / (wide tensor) + caches of its prompts and samples) / memory bandwidth
    + layers * (two sums over `tensor`, a gather and an exchange over `wide`)
    + a few sums over both, of embeddings, merge blocks and the likeliest token

Beside `wide` a small sum over `tensor` is a gather of its parts, which makes its way once (`lam_jax.nn.axes.summed`).
Latencies grow with the devices that take part, see `lam_jax.parallel.chips`. Prefill, products at peak rate and the
moves of weights between the two meshes are left out.

Of devices whose figures are not known, such as a CPU's, nothing is reckoned: rollouts stay on the mesh of training.
"""

import dataclasses
import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Literal

from lam_jax.errors import BadSettingError
from lam_jax.nn.axes import AT_ONCE
from lam_jax.parallel.chips import Chip, box_of
from lam_jax.parallel.choose_mesh import ROLLOUT_SHARE, Load, Shape, parse_shape, problems_of, sizes_of
from lam_jax.parallel.mesh import ROLLOUT_AXES
from lam_jax.parallel.rules import ROLLOUT

RolloutShape = tuple[int, int, int, int]  # data, fsdp, wide, tensor
RolloutMesh = Shape | RolloutShape | Literal["auto", "same"]
# A little faster is not worth a second placement of the weights.
WORTH = 0.95


@dataclasses.dataclass(frozen=True)
class RolloutChoice:
    """The mesh of rollouts and why it was chosen."""

    shape: RolloutShape
    reasons: tuple[str, ...]

    def __str__(self) -> str:
        return f"mesh {sizes_of(self.shape)}: " + "; ".join(self.reasons)


@dataclasses.dataclass(frozen=True)
class Decoding:
    """What the decode steps of a rollout read and send, on all devices together.

    Attributes:
        attention: bytes of the weights of attention.
        others: of all other weights that a step reads.
        position: bytes of keys and values of one token.
        kv_heads: that the caches have.
        prompts, samples: of the rollout, and of each prompt.
        prompt, completion: tokens.
        layers: blocks that a step goes through, those of the policy too.
        sums: over all shards of the other weights, besides those of the layers.
        sum_bytes: of one sample in a sum.
    """

    attention: float
    others: float
    position: float
    kv_heads: int
    prompts: int
    samples: int
    prompt: int
    completion: int
    layers: int
    sums: int
    sum_bytes: float

    def bytes_read(self, shape: "RolloutShape") -> float:
        """Of a step, on one device of a mesh; suffixes at their mean length."""
        data, fsdp, wide, tensor = shape
        prompts, samples = math.ceil(self.prompts / data), math.ceil(self.samples / (fsdp * wide))
        positions = prompts * (self.prompt + samples * (self.completion + 1) / 2)
        # Every head reads its kv head's cache only, also where all of them are held.
        caches = self.position * positions / math.gcd(self.kv_heads, tensor)
        return self.attention / tensor + self.others / (wide * tensor) + caches


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


def step_cost(
    shape: RolloutShape,
    decoding: Decoding,
    chip: Chip,
    per_host: int | None = None,
    places: Sequence[tuple[int, ...]] = (),
) -> StepCost:
    """What a decode step costs on a mesh.

    Args:
        shape: of the mesh.
        decoding: what a step has to do.
        chip: that the mesh is made of.
        per_host: cards of a host; None: of TPUs, or all in one.
        places: of the chips in their torus, in the order of the mesh; none: as near to each other as can be.
    """
    data, fsdp, wide, tensor = shape
    prompts, together = math.ceil(decoding.prompts / data), math.ceil(decoding.samples / fsdp)
    samples = math.ceil(decoding.samples / (fsdp * wide))
    reading = decoding.bytes_read(shape) / chip.hbm_bandwidth
    rows_bytes = prompts * samples * decoding.sum_bytes
    at_once = wide > 1 and rows_bytes * (tensor - 1) <= AT_ONCE  # see `lam_jax.nn.axes.summed`
    waits = [
        (
            2 * decoding.layers,
            "all-gather" if at_once else "all-reduce",
            tensor,
            1,
            samples * (tensor if at_once else 1),
        ),
        (decoding.layers, "all-gather", wide, tensor, together),
        (decoding.layers, "all-to-all", wide, tensor, together),
        (decoding.sums, "all-reduce", wide * tensor, 1, together),
    ]
    latency = sending = 0.0
    for runs, kind, group, stride, rows in waits:
        if group == 1:
            continue
        hosts = math.ceil(group * stride / per_host) if per_host else 1
        link = chip.link_bandwidth
        if hosts > 1:
            link = min(link, max(1, group // hosts) * chip.network_bandwidth)
        ways = 2 if kind == "all-reduce" else 1
        latency += runs * chip.latency(kind, _box(chip, group, stride, places), min(hosts, group))
        sending += runs * ways * (group - 1) / group * prompts * rows * decoding.sum_bytes / link
    return StepCost(reading, latency, sending)


def _box(chip: Chip, group: int, stride: int, places: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    """Of the groups of `group` devices, `stride` apart in the order of the mesh, the one that waits longest."""
    if not places:
        return chip.box(group)
    starts = (first + i for first in range(0, len(places), group * stride) for i in range(stride))
    boxes = (box_of(range(start, start + group * stride, stride), places) for start in starts)
    return max(boxes, key=chip.hops)


def rollout_shape(shape: tuple[int, ...]) -> RolloutShape:
    """The shape of a mesh of rollouts, of three sizes the one without `wide`."""
    data, fsdp, *wide, tensor = shape
    return data, fsdp, math.prod(wide), tensor


def parse_rollout_mesh(text: str) -> RolloutMesh:
    """What `--rollout-mesh` says: "auto", "same", sizes as of `--mesh`, or some by name, `wide` among them.

    Raises:
        ValueError: anything else.
    """
    if text == "auto" or text == "same":
        return text
    named = [part.split("=") for part in text.split(",")] if "=" in text else []
    try:
        if any(name.strip() == "wide" for name, _ in named):
            sizes = {name.strip(): int(size) for name, size in named}
            if set(sizes) - set(ROLLOUT_AXES) or min(sizes.values()) < 1:
                raise ValueError
            return rollout_shape(tuple(sizes.get(axis, 1) for axis in ROLLOUT_AXES))
        return parse_shape(text)
    except ValueError:
        raise ValueError(
            f"--rollout-mesh: found {text!r}, expected 'auto', 'same', three positive sizes data,fsdp,tensor like "
            "'1,1,16', or some of data, fsdp, wide and tensor by name like 'wide=4,tensor=4'."
        ) from None


def check_rollout_mesh(shape: tuple[int, ...], training: Shape, load: Load) -> None:
    """Refuses a mesh that rollouts could not run on beside training.

    Raises:
        BadSettingError: another number of devices than training's mesh has, or sizes that do not divide.
    """
    count = math.prod(training)
    if math.prod(shape) != count:
        raise BadSettingError(
            f"Rollout mesh {sizes_of(shape)} has {math.prod(shape)} devices, but the mesh of training, "
            f"{sizes_of(training)}, has {count}: both lie on the same devices. Choose sizes whose product is {count}."
        )
    if found := list(dict.fromkeys(problems_of(rollout_shape(shape), load, (ROLLOUT,)))):
        raise BadSettingError(
            f"Rollout mesh {sizes_of(shape)} does not fit:\n" + "\n".join(f"- {text}" for text in found)
        )


def choose_rollout_mesh(
    load: Load,
    decoding: Decoding,
    training: Shape,
    chip: Chip | None,
    memory: int | None = None,
    per_host: int | None = None,
    places: Sequence[tuple[int, ...]] = (),
) -> RolloutChoice:
    """The mesh of rollouts, by their cost; that of training where another would save little.

    Args:
        load: what has to divide.
        decoding: what a step has to do.
        training: the mesh of training.
        chip: figures of the devices; None: they are not known.
        memory: bytes of a device; None: no limit is known.
        per_host, places: as of `step_cost`.
    """
    same = rollout_shape(training)
    if chip is None:
        return RolloutChoice(same, ("that of training, since nothing is known of these devices",))

    def fits(shape: RolloutShape) -> bool:
        return memory is None or _held(shape, load) <= ROLLOUT_SHARE * memory

    costs = {
        shape: step_cost(shape, decoding, chip, per_host, places)
        for shape in _shapes(math.prod(training))
        if shape == same or (fits(shape) and not any(problems_of(shape, load, (ROLLOUT,))))
    }
    best = min(costs, key=lambda shape: (costs[shape].total, shape[2], shape[3]))
    now = costs[same]
    if costs[best].total > WORTH * now.total:
        return RolloutChoice(same, (f"that of training, {_told(now)}; the best other one saves too little",))
    return RolloutChoice(best, (_told(costs[best]), f"on the mesh of training {_told(now)}"))


def _held(shape: RolloutShape, load: Load) -> float:
    """Bytes of the weights of rollouts on a device."""
    *_, wide, tensor = shape
    shards = {"mlp": wide * tensor, "vocab": wide * tensor, "heads": tensor}
    sizes = ((math.prod(weight.shape), (shards[a] for a in weight.axes if a in shards)) for weight in load.weights)
    return sum(size / next(parts, 1) for size, parts in sizes) * load.compute_bytes


def _shapes(count: int) -> Iterator[RolloutShape]:
    divisors = [n for n in range(1, count + 1) if count % n == 0]
    for fsdp, wide, tensor in itertools.product(divisors, repeat=3):
        if count % (fsdp * wide * tensor) == 0:
            yield count // (fsdp * wide * tensor), fsdp, wide, tensor


def _told(cost: StepCost) -> str:
    return (
        f"a decode step takes {cost.total * 1e3:.2f} ms, {cost.reading * 1e3:.2f} to read weights and caches, "
        f"{cost.latency * 1e3:.2f} of latency, {cost.sending * 1e3:.2f} to send"
    )
