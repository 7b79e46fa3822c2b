"""Which mesh to use: given in a configuration and checked, or chosen from the devices, the weights and the batch.

Every rule has a reason, which the choice carries as text:

1. `tensor` is as small as lets the weights of rollouts, which lie on `tensor` only, take at most `ROLLOUT_SHARE` of a
   device's memory: every step of `tensor` costs two sums of activations a block and token.
2. `fsdp` is as small as lets master weights, gradients and optimiser state, which lie on `tensor` and `fsdp`, take at
   most `TRAIN_SHARE`: it costs a gather of every layer's weights a step, and each prompt is prefilled on all of it.
3. `data` gets the devices that are left. Where there are more than prompts, the surplus goes to `fsdp` while that
   divides the samples, then to `tensor`: a shard of padding rows would idle.

A size must divide what it shards (heads, feed-forward, vocabulary, width, samples, rows); what may be replicated
instead (kv heads, the vision tower's sizes) stands in `rules.REPLICABLE`. Prompts are padded, see
`lam_jax.rollout.run.fill_prompts`.
"""

import dataclasses
import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import jax
from jax.sharding import AbstractMesh

from lam_jax.nn.weight import Weight, is_weight
from lam_jax.parallel.mesh import AXES, ROLLOUT_AXES
from lam_jax.parallel.rules import ROLLOUT, TRAIN, Rules, partition_spec, weight_spec

Shape = tuple[int, int, int]  # data, fsdp, tensor
ROLLOUT_SHARE = 0.4
TRAIN_SHARE = 0.4
MASTER_BYTES = 4
# Gradient and two moments, all float32.
TRAINED_BYTES = 12


class NotDivisibleError(ValueError):
    """No mesh of so many devices divides all sizes."""


@dataclasses.dataclass(frozen=True)
class Load:
    """What a mesh has to carry.

    Attributes:
        specs: `Weight` specs of everything.
        trained: weights that train at once, of the stage that trains most; None: all.
        rows: of a training batch.
        prompts: of a rollout.
        samples: of a prompt.
        compute_bytes: of a weight in the compute dtype.
    """

    specs: Any
    trained: int | None = None
    rows: int | None = None
    prompts: int | None = None
    samples: int | None = None
    compute_bytes: int = 2

    @property
    def weights(self) -> list[Weight]:
        """All specs."""
        return [spec for spec in jax.tree.leaves(self.specs, is_leaf=is_weight) if is_weight(spec)]


@dataclasses.dataclass(frozen=True)
class Choice:
    """A mesh shape and why it was chosen."""

    shape: Shape
    reasons: tuple[str, ...]

    def __str__(self) -> str:
        sizes = sizes_of(self.shape)
        return f"mesh {sizes}: " + "; ".join(self.reasons)


def sizes_of(shape: tuple[int, ...]) -> str:
    """A mesh of `AXES` or of `ROLLOUT_AXES` in words."""
    axes = AXES if len(shape) == len(AXES) else ROLLOUT_AXES
    return ", ".join(f"{axis} {size}" for axis, size in zip(axes, shape))


def parse_shape(text: str) -> Shape:
    """(data, fsdp, tensor) from "2,4,2", "2x4x2" or "data=2,fsdp=4" (what is not named is 1).

    Raises:
        ValueError: anything else.
    """
    parts = text.replace("x", ",").split(",") if "=" not in text else text.split(",")
    try:
        if "=" in text:
            named = {name.strip(): int(size) for name, size in (part.split("=") for part in parts)}
            if set(named) - set(AXES):
                raise ValueError
            sizes = [named.get(axis, 1) for axis in AXES]
        else:
            sizes = [int(part) for part in parts]
        data, fsdp, tensor = sizes
        if min(sizes) < 1:
            raise ValueError
    except ValueError:
        raise ValueError(
            f"Mesh {text!r}: expected three positive sizes data,fsdp,tensor like '2,4,2', or some of them by name like "
            "'fsdp=8,tensor=2'."
        ) from None
    return data, fsdp, tensor


def check_mesh(shape: Shape, load: Load) -> None:
    """Refuses a mesh on which the program would not compile.

    Raises:
        ValueError: every size that does not divide, each with what to choose instead.
    """
    found = list(dict.fromkeys(problems_of(shape, load)))
    if found:
        raise ValueError(f"Mesh {dict(zip(AXES, shape))} does not fit:\n" + "\n".join(f"- {text}" for text in found))


def problems_of(shape: tuple[int, ...], load: Load, tables: Sequence[Rules] = (TRAIN, ROLLOUT)) -> Iterator[str]:
    """What does not divide over a mesh under the rules `tables`; rows of training batches where `TRAIN` is one."""
    mesh: Any = AbstractMesh(shape, AXES if len(shape) == len(AXES) else ROLLOUT_AXES)

    def problem(function: Any, *arguments: Any) -> str | None:
        try:
            function(*arguments)
        except ValueError as error:
            return str(error)
        return None

    checks: list[tuple[Any, ...]] = []
    for rules in tables:
        checks += [(weight_spec, weight, mesh, rules) for weight in load.weights]
    rows = load.rows if TRAIN in tables else None
    sizes: list[tuple[str, int | None, Rules]] = [("batch", rows, TRAIN), ("samples", load.samples, tables[-1])]
    checks += [(partition_spec, (name,), (size,), mesh, rules) for name, size, rules in sizes if size]
    yield from (text for check in checks if (text := problem(*check)))


def choose_mesh(load: Load, count: int, memory: int | None = None) -> Choice:
    """The mesh for `count` devices, by the rules at the top of this module.

    Args:
        load: what it has to carry.
        count: of devices.
        memory: bytes of one device; None: no limit is known (CPU).

    Raises:
        NotDivisibleError: no mesh of that many devices divides everything.
        ValueError: the memory does not suffice.
    """
    fitting = [shape for shape in _shapes(count) if not list(problems_of(shape, load))]
    if not fitting:
        text = next(problems_of((count, 1, 1), load), "")
        raise NotDivisibleError(f"No mesh of {count} devices divides everything; with data = {count}: {text}")
    wanted = {axis: _smallest(axis, fitting, load, memory) for axis in ("tensor", "fsdp")}
    enough = [s for s in fitting if s[2] >= wanted["tensor"] and s[1] * s[2] >= wanted["fsdp"]]
    if not enough:
        raise ValueError(
            f"{count} devices of {memory} bytes are too few: the weights of rollouts need tensor {wanted['tensor']}, "
            f"training needs fsdp x tensor {wanted['fsdp']}. Use more devices, or a mesh of your choice."
        )
    idle = {shape: max(0, shape[0] - (load.prompts or shape[0])) for shape in enough}
    shape = min(enough, key=lambda s: (idle[s], s[2], s[1]))
    return Choice(shape, _reasons(shape, wanted, load, memory))


def _shapes(count: int) -> Iterator[Shape]:
    divisors = [n for n in range(1, count + 1) if count % n == 0]
    for tensor, fsdp in itertools.product(divisors, divisors):
        if count % (tensor * fsdp) == 0:
            yield count // (tensor * fsdp), fsdp, tensor


def _smallest(axis: str, shapes: Sequence[Shape], load: Load, memory: int | None) -> int:
    """Fewest shards of the weights (on `tensor`, or on `fsdp` x `tensor`) that leave room on a device."""
    sizes = sorted({s[2] if axis == "tensor" else s[1] * s[2] for s in shapes})
    if memory is None:
        return sizes[0]
    total = sum(math.prod(weight.shape) for weight in load.weights)
    trained = total if load.trained is None else load.trained
    needed = total * load.compute_bytes if axis == "tensor" else total * MASTER_BYTES + trained * TRAINED_BYTES
    share = ROLLOUT_SHARE if axis == "tensor" else TRAIN_SHARE
    return next((n for n in sizes if needed / n <= share * memory), math.ceil(needed / (share * memory)))


def _reasons(shape: Shape, wanted: dict[str, int], load: Load, memory: int | None) -> tuple[str, ...]:
    data, _, tensor = shape
    if memory is None:
        reasons = ["the devices report no memory limit, so the smallest shares of weights were not computed"]
    else:
        reasons = [
            f"weights of rollouts fill at most {ROLLOUT_SHARE:.0%} of {memory / 2**30:.0f} GiB from tensor "
            f"{wanted['tensor']}",
            f"training state fills at most {TRAIN_SHARE:.0%} from fsdp x tensor {wanted['fsdp']}",
        ]
    if tensor > wanted["tensor"]:
        reasons.append(f"tensor {tensor} because no smaller one divides the rest")
    reasons.append(f"data {data} takes what is left" + (f" of {load.prompts} prompts" if load.prompts else ""))
    if load.prompts and load.prompts % data:
        reasons.append(f"{load.prompts} prompts are padded to {-(-load.prompts // data) * data}")
    return tuple(reasons)
