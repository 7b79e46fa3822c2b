"""Linear maps, norms and MLPs. Dimension legend: D in, O out, F feed-forward."""

from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float

from lam_jax.nn.axes import active, scattered_sum, summed, wide_axes
from lam_jax.nn.layout import layout
from lam_jax.nn.weight import Param, Weight

T = TypeVar("T")
# A `Linear`, or what a layout packs it to: the same call, and `inputs`.
Map = Any


def last(vector: Float[Array, " D"], like: jax.Array) -> jax.Array:
    """A vector shaped to broadcast on the last dimension of `like` (rank promotion is an error in our code)."""
    return vector.astype(like.dtype).reshape((1,) * (like.ndim - 1) + vector.shape)


class Linear(struct.PyTreeNode):
    """`x @ kernel (+ bias)` in the activations' dtype. Kernel is [D, O]."""

    kernel: Param
    bias: Param = None

    @classmethod
    def spec(
        cls,
        inputs: int,
        outputs: int,
        axes: tuple[str | None, str | None],
        bias: bool = False,
        units: tuple[int | None, int | None] = (None, None),
    ) -> "Linear":
        """Specs of a D=inputs to O=outputs map with logical `axes`; `units` as in `Weight`."""
        return cls(
            kernel=Weight((inputs, outputs), axes, units=units),
            bias=Weight((outputs,), axes[1:], "zeros", units=units[1:]) if bias else None,
        )

    @property
    def inputs(self) -> int:
        """D."""
        return self.kernel.shape[-2]

    def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... O"]:
        """The map of the last dimension."""
        kernel = self.kernel.astype(x.dtype)
        if layout().joined:
            # One flat matrix product: XLA's CPU backward is twice as fast as with several leading dimensions.
            y = (x.reshape(-1, x.shape[-1]) @ kernel).reshape(*x.shape[:-1], -1)
        else:
            y = x @ kernel
        return y if self.bias is None else y + last(self.bias, y)


def packed(module: T) -> T:
    """A module whose linear maps lie as decode steps want them, where the layout packs them."""
    pack = layout().pack
    if pack is None:
        return module

    def convert(part: Any) -> Any:
        found = pack(part) if isinstance(part, Linear) else None
        return part if found is None else found

    return jax.tree.map(convert, module, is_leaf=lambda part: isinstance(part, Linear))


class RMSNorm(struct.PyTreeNode):
    """`scale * x / rms(x)`, the mean square in float32 whatever the activations' dtype."""

    scale: Param
    epsilon: float = struct.field(pytree_node=False)

    @classmethod
    def spec(cls, width: int, epsilon: float = 1e-6) -> "RMSNorm":
        """Specs of a norm over D=width."""
        return cls(scale=Weight((width,), (None,), "ones"), epsilon=epsilon)

    def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... D"]:
        """Normalises the last dimension; same dtype out."""
        y = x.astype(jnp.float32)
        y = y * jax.lax.rsqrt(jnp.mean(jnp.square(y), axis=-1, keepdims=True) + self.epsilon)
        return last(self.scale, x) * y.astype(x.dtype)


class LayerNorm(struct.PyTreeNode):
    """`scale * (x - mean) / deviation + bias`, mean and deviation in float32 whatever the activations' dtype."""

    scale: Param
    bias: Param
    epsilon: float = struct.field(pytree_node=False)

    @classmethod
    def spec(cls, width: int, epsilon: float = 1e-6) -> "LayerNorm":
        """Specs of a norm over D=width."""
        return cls(scale=Weight((width,), (None,), "ones"), bias=Weight((width,), (None,), "zeros"), epsilon=epsilon)

    def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... D"]:
        """Normalises the last dimension; same dtype out."""
        y = x.astype(jnp.float32)
        y = y - jnp.mean(y, axis=-1, keepdims=True)
        y = y * jax.lax.rsqrt(jnp.mean(jnp.square(y), axis=-1, keepdims=True) + self.epsilon)
        return (last(self.scale, y) * y + last(self.bias, y)).astype(x.dtype)


@jax.custom_vjp
def swiglu(gate: Float[Array, "... F"], up: Float[Array, "... F"]) -> Float[Array, "... F"]:
    """`silu(gate) * up`, of which the backward pass keeps the two arguments only.

    Left to itself autodiff keeps the sigmoid and silu(gate) too: 109 of the 682 MB of a latent update at `mid`.
    """
    return jax.nn.silu(gate) * up


def _swiglu_forward(gate: Array, up: Array) -> tuple[Array, tuple[Array, Array]]:
    return swiglu(gate, up), (gate, up)


def _swiglu_backward(kept: tuple[Array, Array], out: Array) -> tuple[Array, Array]:
    # Barriers, or the compiler takes the sigmoid from the forward pass, which is what keeps it in memory. One for each
    # gradient, so that each is one fused loop.
    gate, up, slope = jax.lax.optimization_barrier((*kept, out))
    sigmoid = jax.nn.sigmoid(gate)
    to_gate = slope * up * (sigmoid * (1 + gate * (1 - sigmoid)))
    gate, slope = jax.lax.optimization_barrier((kept[0], out))
    return to_gate, slope * jax.nn.silu(gate)


swiglu.defvjp(_swiglu_forward, _swiglu_backward)


class GatedMLP(struct.PyTreeNode):
    """SwiGLU: `down(silu(gate(x)) * up(x))`."""

    gate: Map
    up: Map
    down: Map

    @classmethod
    def spec(cls, width: int, hidden: int, bias: bool = False, axis: str = "mlp") -> "GatedMLP":
        """Specs for D=width, F=hidden; `axis` is the logical axis of F."""
        return cls(
            gate=Linear.spec(width, hidden, ("embed", axis), bias),
            up=Linear.spec(width, hidden, ("embed", axis), bias),
            down=Linear.spec(hidden, width, (axis, "embed"), bias),
        )

    def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... D"]:
        """The MLP of the last dimension; same width out."""
        wide = wide_axes()
        if not wide or x.ndim != 4 or self.down.bias is not None:  # rows do not lie on such axes
            return self.down(self.hidden(x))
        return self._of_all_samples(x, wide)

    def _of_all_samples(self, x: Float[Array, "N G T D"], wide: tuple[str, ...]) -> Float[Array, "N G T D"]:
        """Each shard of F for the samples of all shards on `wide`, whose sums go back to where the samples are."""
        placement = active()
        assert placement is not None
        rest = tuple(name for name in placement.names("mlp") if name not in wide)
        maps = ((self.gate, ("embed", "mlp")), (self.up, ("embed", "mlp")), (self.down, ("mlp", "embed")))
        weights, structure = jax.tree.flatten(self)
        axes = [both[2 - leaf.ndim :] for part, both in maps for leaf in jax.tree.leaves(part)]

        def own(x: Array, *weights: Array) -> Array:
            mlp = structure.unflatten(weights)
            y = mlp.down(mlp.hidden(jax.lax.all_gather(x, wide, axis=1, tiled=True)))
            return summed(scattered_sum(y, wide, 1), rest)

        return placement.on_shards(own, (x, *weights), (_SAMPLES, *axes), _SAMPLES, gathers=True)

    def hidden(self, x: Float[Array, "... D"]) -> Float[Array, "... F"]:
        """What `down` is applied to."""
        return swiglu(self.gate(x), self.up(x))


_SAMPLES = ("prompts", "samples", None, None)


def narrowed(linear: Map, y: Float[Array, "*B F"], axis: str) -> Float[Array, "*B D"]:
    """`linear(y)`, whose inputs lie on the logical `axis`; on meshes with wide axes the sum is made by hand."""
    placement = active()
    if placement is None or not wide_axes() or y.ndim != 4 or linear.bias is not None:
        return linear(y)
    weights, structure = jax.tree.flatten(linear)
    axes = [(axis, "embed")[2 - leaf.ndim :] for leaf in weights]

    def own(y: Array, *weights: Array) -> Array:
        return summed(structure.unflatten(weights)(y), placement.names(axis))

    return placement.on_shards(own, (y, *weights), ((*_SAMPLES[:3], axis), *axes), _SAMPLES, gathers=True)


class MLP(struct.PyTreeNode):
    """`down(gelu(up(x)))` with biases."""

    up: Map
    down: Map
    tanh: bool = struct.field(pytree_node=False, default=False)  # GELU by its approximation with tanh

    @classmethod
    def spec(cls, width: int, hidden: int, outputs: int, axis: str = "mlp", tanh: bool = False) -> "MLP":
        """Specs for D=width, F=hidden, O=outputs; `axis` is the logical axis of F."""
        return cls(
            up=Linear.spec(width, hidden, ("embed", axis), bias=True),
            down=Linear.spec(hidden, outputs, (axis, "embed"), bias=True),
            tanh=tanh,
        )

    def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... O"]:
        """The MLP of the last dimension."""
        return self.down(jax.nn.gelu(self.up(x), approximate=self.tanh))
