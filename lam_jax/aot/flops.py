"""Floating point operations of a traced program: a walk of its jaxpr.

Matrix products and convolutions only: two operations for every multiply-add. Loops count as often as they run,
recomputed activations (remat) count again where the gradient runs them, and of a conditional's branches the dearest
counts. Of Pallas kernels counts what they say that they cost (`lam_jax.gpu.cost`): how often their loops run is for
the card to find out. `compiled.cost_analysis()` will not do: it counts the body of a loop once.
"""

import math
from collections.abc import Iterator
from typing import Any

import jax

Shapes = tuple[tuple[int, ...], ...]


def count_flops(jaxpr: Any, while_trips: int = 1) -> int:
    """Operations of a (closed) jaxpr on all devices together.

    Args:
        jaxpr: e.g. `jax.jit(f).trace(*arguments).jaxpr`.
        while_trips: trips taken for loops that end on data, which the program does not tell.
    """
    return sum(_count_equation(equation, while_trips) for equation in jaxpr.eqns)


def _count_equation(equation: Any, while_trips: int) -> int:
    name, parameters = equation.primitive.name, equation.params
    if name == "dot_general":
        return _dot(equation)
    if name == "conv_general_dilated":
        return _convolution(equation)
    if name == "pallas_call":
        return _kernel(equation)
    if name == "scan":
        return parameters["length"] * count_flops(parameters["jaxpr"], while_trips)
    if name == "while":
        body, test = (count_flops(parameters[key], while_trips) for key in ("body_jaxpr", "cond_jaxpr"))
        return while_trips * (body + test) + test
    if name == "cond":
        return max(count_flops(branch, while_trips) for branch in parameters["branches"])
    if name == "shard_map":
        return _shards(parameters) * count_flops(parameters["jaxpr"], while_trips)
    # jit, checkpoint, custom_jvp and custom_vjp: what they call runs once.
    return sum(count_flops(inner, while_trips) for inner in _inner(parameters))


def kernel_flops(jaxpr: Any) -> dict[Shapes, int]:
    """Operations of each Pallas kernel in a (closed) jaxpr by the shapes of its operands, in their order.

    Raises:
        ValueError: two kernels with equal operands and unequal costs.
    """
    found: dict[Shapes, int] = {}
    for equation in _kernels(jaxpr):
        shapes, cost = tuple(tuple(operand.aval.shape) for operand in equation.invars), _kernel(equation)
        if found.setdefault(shapes, cost) != cost:
            raise ValueError(f"Kernels of operands {shapes} cost {found[shapes]} and {cost} operations: expected one.")
    return found


def _kernels(jaxpr: Any) -> Iterator[Any]:
    for equation in jaxpr.eqns:
        if equation.primitive.name == "pallas_call":
            yield equation
        else:
            for inner in _inner(equation.params):
                yield from _kernels(inner)


def _kernel(equation: Any) -> int:
    cost = equation.params["cost_estimate"]
    if cost is None:
        raise ValueError(f"A Pallas kernel says no cost: give pallas_call a cost_estimate, in {equation.source_info}.")
    return cost.flops


def _shards(parameters: dict[str, Any]) -> int:
    """Devices that each run the body of a shard_map; of axes that it leaves to the compiler the body tells all."""
    sizes = parameters["mesh"].shape
    manual = parameters.get("newly_manual_axes") or parameters.get("manual_axes") or sizes  # names since jax 0.10
    return math.prod(sizes[axis] for axis in manual)


def _inner(parameters: dict[str, Any]) -> list[Any]:
    # Open and closed ones are two types in jax 0.10 and one in 0.12; both have equations.
    values = jax.tree.leaves(list(parameters.values()), is_leaf=lambda x: hasattr(x, "eqns"))
    return [value for value in values if hasattr(value, "eqns")]


def _dot(equation: Any) -> int:
    """Output elements times the contracted length, twice."""
    (contracted, _), _ = equation.params["dimension_numbers"]
    left = equation.invars[0].aval.shape
    return 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(left[axis] for axis in contracted)


def _convolution(equation: Any) -> int:
    """Output elements times the kernel's elements for one output feature, twice."""
    kernel = equation.invars[1].aval.shape
    features = kernel[equation.params["dimension_numbers"].rhs_spec[0]]
    return 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(kernel) // features
