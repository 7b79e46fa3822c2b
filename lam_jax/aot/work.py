"""What one chip does in a compiled program, read from its optimised HLO: operations and traffic of its products.

Shapes in optimised HLO are those on one chip, so work that several chips repeat is counted on each of them; the count
from the traced program (`count_flops`) divided by the number of chips is what a perfect division would leave.
"""

import dataclasses
import math
import re
from collections.abc import Mapping

from lam_jax.aot.flops import Shapes
from lam_jax.parallel.collectives import Instruction, array_bytes, arrays_of, executions, parse_hlo

# Plain and fused with what follows ("__cublas$gemm", "__cublas$lt$matmul", the same with "$f8").
_CUBLAS = re.compile(r'custom_call_target="__cublas\$(gemm|lt\$matmul)')
_PALLAS = re.compile(r'custom_call_target="(__gpu\$xla\.gpu\.triton|triton_kernel_call)"')
_ALIASES = re.compile(r"output_to_operand_aliasing=\{((?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*)\}")


@dataclasses.dataclass(frozen=True)
class ChipWork:
    """Matrix products of one chip in one run, and Pallas kernels.

    Attributes:
        flops: two for every multiply-add.
        bytes: of operands and results, each once for every time that a product runs. Elementwise work moves more, and
            what stays in a chip's vector memory less.
    """

    flops: int
    bytes: int


def chip_work(hlo_text: str, unknown_trips: int = 1, kernels: Mapping[Shapes, int] | None = None) -> ChipWork:
    """Adds up the products of a compiled program.

    Args:
        hlo_text: `compiled.as_text()`.
        unknown_trips: of loops that end on data.
        kernels: operations of Pallas kernels, whose inside HLO does not show, as `kernel_flops` gives them.
    """
    computations, entry = parse_hlo(hlo_text)
    trips, _ = executions(computations, entry, unknown_trips)
    flops = moved = 0
    for name, instructions in computations.items():
        for instruction in instructions.values():
            if not trips.get(name):
                continue
            if is_pallas(instruction):
                operands = [instructions[operand].type for operand in instruction.operands]
                shapes = tuple(arrays_of(operand)[0][1] for operand in operands)
                flops += trips[name] * (kernels or {}).get(shapes, 0)
                moved += trips[name] * _kernel_bytes(instruction, operands)
                continue
            if not is_product(instruction):
                continue
            # Of a library call a third operand is added to the product, and a second result is scratch memory.
            arrays = [arrays_of(instructions[operand].type)[0] for operand in instruction.operands[:2]]
            arrays.append(arrays_of(instruction.type)[0])
            moved += trips[name] * sum(array_bytes(*array) for array in arrays)
            flops += trips[name] * 2 * math.prod(arrays[-1][1]) * _contracted(instruction, arrays)
    return ChipWork(flops, moved)


def is_product(instruction: Instruction) -> bool:
    """A matrix product: HLO's own, inside of a fusion or not, or a call of cuBLAS (never inside of one)."""
    if instruction.opcode in ("dot", "convolution"):
        return True
    return instruction.opcode == "custom-call" and _CUBLAS.search(instruction.attributes) is not None


def is_pallas(instruction: Instruction) -> bool:
    """A kernel written in Pallas; the name of the target depends on jax."""
    return instruction.opcode == "custom-call" and _PALLAS.search(instruction.attributes) is not None


def updated_by_pallas(instruction: Instruction) -> dict[int, int]:
    """Operands that a Pallas kernel updates in place, each with the number of the result that takes its place."""
    found = _ALIASES.search(instruction.attributes) if is_pallas(instruction) else None
    pairs = re.findall(r"\{(\d*)\}: \((\d+),", found[1]) if found else ()
    return {int(operand): int(result or 0) for result, operand in pairs}


def _kernel_bytes(kernel: Instruction, operands: list[str]) -> int:
    """Of operands and results; what is updated in place the kernel need not read."""
    in_place = updated_by_pallas(kernel)
    arrays = [array for index, type_ in enumerate(operands) if index not in in_place for array in arrays_of(type_)]
    arrays += [array for index, array in enumerate(arrays_of(kernel.type)) if index not in in_place.values()]
    return sum(array_bytes(*array) for array in arrays)


def _contracted(product: Instruction, arrays: list[tuple[str, tuple[int, ...]]]) -> int:
    """Terms of the sum behind one element of the result."""
    if product.opcode == "dot":
        found = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", product.attributes)
        return math.prod(arrays[0][1][int(axis)] for axis in found[1].split(",") if axis) if found else 1
    if product.opcode == "custom-call":
        found = re.search(r'"lhs_contracting_dimensions":\[([^\]]*)\]', product.attributes)
        return math.prod(arrays[0][1][int(axis)] for axis in re.findall(r"\d+", found[1])) if found else 1
    labels = re.search(r"dim_labels=\w+_(\w+)->", product.attributes)
    terms = arrays[1][1][labels[1].index("i")] if labels else 1
    return terms * math.prod(_window(product.attributes))


def _window(attributes: str) -> list[int]:
    """Sizes of the window's dimensions that are summed over.

    The TPU compiler writes products as convolutions. A window dimension that dilates or pads its operand is a batch or
    an outer dimension: every element of the result sees one entry of it.
    """
    found = re.search(r"window=\{([^}]*)\}", attributes)
    parts = dict(re.findall(r"(\w+)=(\S+)", found[1])) if found else {}
    sizes = [int(size) for size in parts["size"].split("x")] if "size" in parts else []
    count = len(sizes)
    dilated = parts.get("lhs_dilate", "x".join(["1"] * count)).split("x")
    padded = parts.get("pad", "x".join(["0_0"] * count)).split("x")
    return [size for size, dilate, pad in zip(sizes, dilated, padded) if dilate == "1" and pad == "0_0"]
