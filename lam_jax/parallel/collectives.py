"""What a compiled program sends between devices, read from its optimised HLO text.

    collectives(jax.jit(f).lower(*arguments).compile().as_text())

works for programs compiled for CPU, GPU and TPU, attached or described by a topology.
"""

import dataclasses
import math
import re
from collections.abc import Iterator

import numpy as np

KINDS = (
    "all-gather",
    "all-reduce",
    "reduce-scatter",
    "all-to-all",
    "ragged-all-to-all",
    "collective-permute",
    "collective-broadcast",
)
_ARRAY = re.compile(r"\b(pred|[a-z]+\d+\w*)\[([\d,]*)\]")
_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{\s*$")
_INSTRUCTION = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = ")
_NAMES = re.compile(r"%([\w.\-]+)")
_CALLED = re.compile(
    r"\b(body|condition|calls|to_apply|true_computation|false_computation|branch_computations|called_computations)"
    r"=(\{[^}]*\}|%[\w.\-]+)"
)


@dataclasses.dataclass(frozen=True)
class Collective:
    """One array that one collective operation moves, seen from one device.

    Attributes:
        kind: one of `KINDS`; the asynchronous form counts under the same name, once.
        dtype: HLO's name, e.g. "f32", "bf16".
        shape: of the operation's result on one device.
        bytes: size of the larger of operand and result on one device, of one execution.
        trips: executions per run of the program: the product of the trip counts of the loops around it.
        name: of the HLO instruction.
        computation: that holds it.
        group: devices that take part together.
        unbounded: inside a loop whose trip count is not known; `trips` then takes the caller's `unknown_trips`.
        source: where in the traced Python program it comes from ("" if the compiler made it up).
        groups: numbers of the devices that take part together, as the program counts them; of permutations, each pair.
    """

    kind: str
    dtype: str
    shape: tuple[int, ...]
    bytes: int
    trips: int
    name: str
    computation: str
    group: int
    unbounded: bool
    source: str
    groups: tuple[tuple[int, ...], ...] = ()

    @property
    def total_bytes(self) -> int:
        """Bytes over all executions."""
        return self.bytes * self.trips


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of an HLO computation."""

    name: str
    type: str
    opcode: str
    operands: tuple[str, ...]
    literal: str  # what stands between the parentheses
    attributes: str
    root: bool


def collectives(hlo_text: str, unknown_trips: int = 1) -> list[Collective]:
    """The collectives of a compiled program, in program order.

    Both branches of a conditional count as executed.

    Args:
        hlo_text: `compiled.as_text()`.
        unknown_trips: taken for loops whose trip count the program does not tell (a `while_loop` on data).

    Raises:
        ValueError: the text holds no entry computation.
    """
    computations, entry = parse_hlo(hlo_text)
    trips, unbounded = executions(computations, entry, unknown_trips)
    found = []
    for computation, instructions in computations.items():
        if not trips.get(computation):
            continue
        for instruction in instructions.values():
            kind = instruction.opcode.removesuffix("-done")
            if kind not in KINDS:
                continue
            start = instruction
            if instruction.opcode.endswith("-done"):
                start = instructions[instruction.operands[0]]
            # An operand of a fused or wrapped computation is a parameter, which is an instruction as well.
            operands = [arrays_of(instructions[name].type) for name in start.operands if name in instructions]
            sizes = [array for arrays in operands for array in arrays]
            groups = _groups(start.attributes)
            for index, (dtype, shape) in enumerate(arrays_of(instruction.type)):
                operand = array_bytes(*sizes[index]) if index < len(sizes) else 0
                found.append(
                    Collective(
                        kind=kind,
                        dtype=dtype,
                        shape=shape,
                        bytes=max(array_bytes(dtype, shape), operand),
                        trips=trips[computation],
                        name=instruction.name,
                        computation=computation,
                        group=len(groups[0]) if groups else 1,
                        unbounded=computation in unbounded,
                        source=_source(start.attributes),
                        groups=groups,
                    )
                )
    return found


def parse_hlo(text: str) -> tuple[dict[str, dict[str, Instruction]], str]:
    """Computations by name, callees before callers as HLO prints them, and the name of the entry."""
    computations: dict[str, dict[str, Instruction]] = {}
    entry, current = "", None
    for line in text.splitlines():
        if header := _HEADER.match(line):
            current = computations.setdefault(header[2], {})
            entry = header[2] if header[1] else entry
        elif current is not None and (found := _INSTRUCTION.match(line)):
            instruction = _instruction(found[2], line[found.end() :], bool(found[1]))
            current[instruction.name] = instruction
    if not entry:
        raise ValueError("Found no ENTRY computation in the text, expected what `compiled.as_text()` gives.")
    return computations, entry


def _instruction(name: str, rest: str, root: bool) -> Instruction:
    type_end = _closing(rest, 0) + 1 if rest.startswith("(") else rest.index(" ")
    opening = rest.index("(", type_end)
    closing = _closing(rest, opening)
    literal = rest[opening + 1 : closing]
    opcode = rest[type_end:opening].strip()
    return Instruction(
        name, rest[:type_end], opcode, tuple(_NAMES.findall(literal)), literal, rest[closing + 1 :], root
    )


def _closing(text: str, opening: int) -> int:
    depth = 0
    for index in range(opening, len(text)):
        depth += {"(": 1, ")": -1}.get(text[index], 0)
        if not depth:
            return index
    return len(text) - 1


def arrays_of(type_text: str) -> list[tuple[str, tuple[int, ...]]]:
    """(dtype, shape) of every array in a type; tokens and opaque values are none."""
    return [(dtype, tuple(int(n) for n in sizes.split(",") if n)) for dtype, sizes in _ARRAY.findall(type_text)]


def array_bytes(dtype: str, shape: tuple[int, ...]) -> int:
    """Size of an array, without the padding of its layout."""
    bits = 8 if dtype == "pred" else int(re.findall(r"\d+", dtype)[0])
    return math.ceil(math.prod(shape) * bits / 8)


def _source(attributes: str) -> str:
    found = re.search(r'op_name="([^"]*)"', attributes)
    return found[1] if found else ""


def _groups(attributes: str) -> tuple[tuple[int, ...], ...]:
    """Devices that take part together; the notations are {{0,1},{2,3}}, [2,2]<=[4] and mesh['a'=2,'b'=2] {'b'}."""
    if found := re.search(r"(?:replica_groups|source_target_pairs)=\{(\{[\d,{}]*\})\}", attributes):
        return tuple(tuple(int(n) for n in group.split(",")) for group in re.findall(r"\{([\d,]+)\}", found[1]))
    if found := re.search(r"replica_groups=\[(\d+),(\d+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", attributes):
        count, size = int(found[1]), int(found[2])
        ids = np.arange(count * size).reshape([int(n) for n in found[3].split(",")])
        ids = ids.transpose([int(n) for n in found[4].split(",")]) if found[4] else ids
        return tuple(map(tuple, ids.reshape(count, size).tolist()))
    if found := re.search(r"replica_groups=\w+\[([^\]]*)\] \{([^}]*)\}", attributes):
        sizes = {axis: int(size) for axis, size in re.findall(r"'(\w+)'=(\d+)", found[1])}
        inside = re.findall(r"'(\w+)'", found[2])
        order = [list(sizes).index(axis) for axis in [*(axis for axis in sizes if axis not in inside), *inside]]
        ids = np.arange(math.prod(sizes.values())).reshape(list(sizes.values())).transpose(order)
        return tuple(map(tuple, ids.reshape(-1, math.prod(sizes[axis] for axis in inside)).tolist()))
    return ()


def executions(
    computations: dict[str, dict[str, Instruction]], entry: str, unknown: int
) -> tuple[dict[str, int], set[str]]:
    """How often each computation runs, and which ones run an unknown number of times."""
    trips, unbounded = {entry: 1}, set()
    for name in reversed(computations):  # callers before callees
        if name not in trips:
            continue
        for instruction, callee in called(computations[name]):
            known = trip_count(instruction, computations, computations[name]) if instruction.opcode == "while" else 1
            trips[callee] = trips.get(callee, 0) + trips[name] * (unknown if known is None else known)
            if known is None or name in unbounded:
                unbounded.add(callee)
    return trips, unbounded


def called(instructions: dict[str, Instruction]) -> Iterator[tuple[Instruction, str]]:
    """Each computation that one of the instructions calls, beside it."""
    for instruction in instructions.values():
        for _, names in _CALLED.findall(instruction.attributes):
            for callee in _NAMES.findall(names):
                yield instruction, callee


def trip_count(
    loop: Instruction, computations: dict[str, dict[str, Instruction]], caller: dict[str, Instruction]
) -> int | None:
    """Trip count of a loop that counts up by one, as `scan` and `fori_loop` do; None if it is anything else."""
    if known := re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.attributes):
        return int(known[1])
    # The TPU compiler does not annotate its loops: read the bound from the condition `counter < constant`.
    found = re.search(r"condition=%([\w.\-]+)", loop.attributes)
    condition = computations.get(found[1], {}) if found else {}
    test = next((i for i in condition.values() if i.root), None)
    if test is None or test.opcode != "compare" or "direction=LT" not in test.attributes:
        return None
    counter, limit = (condition[name] for name in test.operands)
    if limit.opcode != "constant" or not limit.type.startswith("s32[]") or counter.opcode != "get-tuple-element":
        return None
    index = re.search(r"index=(\d+)", counter.attributes)
    start = _initial(caller.get(loop.operands[0]), int(index[1]) if index else 0, caller)
    return int(limit.literal) - start


def _initial(carried: Instruction | None, index: int, caller: dict[str, Instruction]) -> int:
    """Where a counter starts: a constant behind copies, or 0 where the compiler hides it."""
    value = caller.get(carried.operands[index]) if carried is not None and carried.opcode == "tuple" else None
    while value is not None and value.opcode in ("copy", "copy-done", "copy-start", "bitcast"):
        value = caller.get(value.operands[0])
    return int(value.literal) if value is not None and value.opcode == "constant" else 0
