"""What one decode step costs in a compiled rollout: kernels that it launches, bytes that it reads, collectives.

Everything is read from the optimised HLO: the instructions inside of the loop that ends on data, each as often as the
loops around it run (such as the scan over the layers), divided by the steps that the loop makes. What a segment of
steps does once is thus shared among them.

Launched is on a GPU, one by one and in this order: every fusion, call of a library, collective and copy; the two halves
of an asynchronous operation count once. Tuples, bitcasts, constants and the control flow itself launch nothing.
"""

import dataclasses
import math
import re
from collections import Counter
from collections.abc import Iterator

from lam_jax.aot.work import is_pallas, is_product, updated_by_pallas
from lam_jax.parallel.collectives import (
    KINDS,
    Instruction,
    array_bytes,
    arrays_of,
    called,
    executions,
    parse_hlo,
    trip_count,
)

Computations = dict[str, dict[str, Instruction]]
# Where instructions of the called computation are launched; of other calls (fusions, reductions) they are one kernel.
_CONTROL = ("while", "conditional", "call", "async-start")
_FREE = {
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "add-dependency", "opt-barrier"),
    *("partition-id", "replica-id", "get-dimension-size", "domain"),
    *_CONTROL,
}
# Of a fusion that holds nothing else but whole numbers of no dimension (an index): it moves data and computes nothing.
_MOVES = {"parameter", "constant", "tuple", "bitcast", "copy", "slice", "dynamic-slice", "get-tuple-element"}
# Of a type, arrays in a memory space of their own: a TPU's vector memory, where a copy brought them.
_NEAR = re.compile(r"\b\w+\[[\d,]*\]\{[^}]*S\([1-9]\d*\)[^}]*\}")
# These look at a part of their first operand, as large as their result.
_PARTS = ("slice", "dynamic-slice", "gather")


@dataclasses.dataclass(frozen=True)
class DecodeStep:
    """One step of the decode loop on one chip; means over the steps.

    Attributes:
        launches: "products", "Pallas kernels" (our own), "fusions" (other ones), "copies", "collectives" and "other
            calls" that are launched.
        bytes_read: operands of all these, of a slice the slice alone; what is updated in place is not read. Of our
            kernels' operands all, also of caches of which they read what is written so far.
        floor: bytes that have to be read: every weight once, and the live part of the caches.
        collectives: sums, gathers and the like, each array once.
    """

    launches: dict[str, float]
    bytes_read: float
    floor: float
    collectives: float

    @property
    def kernels(self) -> float:
        """Everything that is launched."""
        return sum(self.launches.values())


def decode_step(hlo_text: str, while_trips: int, steps: int, floor: float, collectives: int) -> DecodeStep:
    """Counts a step.

    Args:
        hlo_text: `compiled.as_text()` of a rollout.
        while_trips: of its decode loop.
        steps: of all trips together.
        floor: for the result.
        collectives: runs of those inside of the loop, in all trips together.
    """
    computations, entry = parse_hlo(hlo_text)
    trips, decoding = executions(computations, entry, while_trips)
    launches, read = Counter(), 0
    for name in launching(computations, entry):
        if name in decoding:
            for instruction in computations[name].values():
                if kind := launch(instruction, computations):
                    launches[kind] += trips[name]
                    read += trips[name] * bytes_read(instruction, computations, computations[name])
    each = {kind: count / steps for kind, count in sorted(launches.items())}
    return DecodeStep(each, read / steps, floor, collectives / steps)


def launching(computations: Computations, entry: str) -> set[str]:
    """Computations whose instructions are launched one by one."""
    found = {entry}
    for name in reversed(computations):  # callers before callees
        for instruction, callee in called(computations[name]) if name in found else ():
            if instruction.opcode not in _CONTROL:
                continue
            # A loop whose trips are known does not look at its condition.
            known = instruction.opcode == "while" and trip_count(instruction, computations, computations[name])
            if not known or f"condition=%{callee}," not in instruction.attributes + ",":
                found.add(callee)
    return found


def launch(instruction: Instruction, computations: Computations) -> str | None:
    """Under which name an instruction counts; None: it launches nothing."""
    opcode = instruction.opcode
    if opcode in _FREE or opcode.endswith(("-done", "-update")):
        return None
    plain = opcode.removesuffix("-start")
    if plain in KINDS:
        return "collectives"
    if plain == "copy":
        return "copies"
    inside = list(_inside(instruction, computations))
    if is_product(instruction) or any(map(is_product, inside)):
        return "products"
    if plain != "fusion":
        return "Pallas kernels" if is_pallas(instruction) else "other calls"
    moves = all(i.opcode in _MOVES or not arrays_of(i.type)[0][1] for i in inside if arrays_of(i.type))
    return "copies" if moves and any(i.opcode in ("copy", *_PARTS) for i in inside) else "fusions"


def _inside(instruction: Instruction, computations: Computations) -> Iterator[Instruction]:
    """Instructions that run inside of a fusion, of fusions in it as well."""
    for _, callee in called({instruction.name: instruction}):
        for inner in computations.get(callee, {}).values():
            yield inner
            yield from _inside(inner, computations)


def bytes_read(instruction: Instruction, computations: Computations, beside: dict[str, Instruction]) -> int:
    """Bytes of the operands that a launched instruction reads from memory; `beside` are those of its computation."""
    total, in_place = 0, updated_by_pallas(instruction)
    for index, name in enumerate(instruction.operands):
        if index in in_place:
            continue
        for dtype, shape in arrays_of(_NEAR.sub("", beside[name].type)) if name in beside else ():
            read = _entries_read(instruction, index, computations)
            total += array_bytes(dtype, shape if read > math.prod(shape) else (int(read),))
    return total


def _entries_read(user: Instruction, index: int, computations: Computations) -> float:
    """Entries of operand `index` that `user` looks at; at most the operand has."""
    if user.opcode in _PARTS and index == 0:
        return math.prod(arrays_of(user.type)[0][1])
    if user.opcode == "dynamic-update-slice" and index == 0:
        return 0
    if user.opcode.removesuffix("-start") != "fusion":
        return math.inf
    [callee] = [name for _, name in called({user.name: user})]
    body = computations[callee]
    parameter = next((i for i in body.values() if i.opcode == "parameter" and i.literal == str(index)), None)
    return math.inf if parameter is None else _entries_used(parameter, body, computations)


def _entries_used(value: Instruction, body: dict[str, Instruction], computations: Computations) -> float:
    """Entries of a value inside of a fusion that are looked at, by all its users together."""
    if value.root:
        return math.inf
    total = 0.0
    for user in body.values():
        for index, name in enumerate(user.operands):
            if name == value.name:
                through = user.opcode in ("bitcast", "convert", "reshape")
                total += (
                    _entries_used(user, body, computations) if through else _entries_read(user, index, computations)
                )
    return total
