"""How a program computes its numbers: in which products, layers unrolled or scanned, weights packed or plain.

All layouts give the same numbers up to rounding; they differ in speed and memory. Whoever starts a program chooses one
(`lam_jax.parallel.choose_layout`) and `lam_jax.parallel.use` installs it here for the time of a trace.
"""

import contextlib
import contextvars
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any


@dataclasses.dataclass(frozen=True)
class Layout:
    """A value that programs take as a static argument.

    Attributes:
        joined: leading dimensions are joined, so that a weight takes part in one product: that of prompts and samples,
            of query, key and value in decoding. Impossible where the dimensions lie on different mesh axes.
        unrolled: stacks of fewer weights are unrolled where gradients are wanted; 0: every stack is scanned.
        apart: stacks of fewer weights have their layers apart in decoding; None: those that are unrolled.
        kept_apart: stage 6 holds the layers of stacks that do not train apart between its programs too, so that no
            rollout copies them (`lam_jax.train.rl_held`).
        pack: a linear map laid out for the few rows of a decode step, or None where it stays as it is; None: all stay.
        attend: attention of whole rows, called as `lam_jax.nn.attention.attention`, or None of what it gives where it
            cannot serve; None: in parts (`lam_jax.nn.attention`).
        query_block: queries whose scores attention in parts holds at a time; None: `lam_jax.nn.attention.QUERY_BLOCK`.
        decode_layer: a layer of a decode step, called as `lam_jax.gpu.decode_layer.DecodeLayer`, over caches laid out
            for it; None: in parts (`lam_jax.nn.attention`). It joins prompts and samples, too.
        logits_bytes: float32 logits over the vocabulary that a loss holds at a time. Fewer read the table more often.
    """

    joined: bool = False
    unrolled: int = 0
    apart: int | None = None
    kept_apart: bool = False
    pack: Callable[[Any], Any] | None = None
    attend: Callable[..., Any] | None = None
    query_block: int | None = None
    decode_layer: Any = None
    logits_bytes: int = 256 * 2**20

    def __post_init__(self):
        if self.decode_layer is not None and not self.joined:
            raise ValueError("Layout.decode_layer joins prompts and samples: expected joined=True, got False.")


# The reference that all others equal, and what functions get that are traced outside `lam_jax.parallel.use`.
PLAIN = Layout()
_active: contextvars.ContextVar[Layout] = contextvars.ContextVar("layout", default=PLAIN)


@contextlib.contextmanager
def laid_out_by(layout: Layout) -> Iterator[None]:
    """Lets `layout` decide in functions traced inside."""
    token = _active.set(layout)
    try:
        yield
    finally:
        _active.reset(token)


def layout() -> Layout:
    """The layout in force."""
    return _active.get()
