"""A loss of stages 1 to 5 as what it is: a weighted sum of means over positions (method.md section 3)."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

from flax import struct
from jaxtyping import Array, Float

from lam_jax.losses import Mean

# A mean by its name, or a sum of such things; each with its weight.
Term = tuple[float, "str | tuple[Term, ...]"]


class Objective(struct.PyTreeNode):
    """Means and how they are added up, so that parts of a batch can be put together to exactly the whole batch's loss.

    What a mean is taken over depends on the rows alone, never on weights.

    Attributes:
        means: what the loss is made of, by name.
        formula: the loss, added up from left to right.
        derived: what is logged beside the loss and made of the same means, by name.
        metrics: what else is logged: means, or scalars of these rows.
    """

    means: dict[str, Mean]
    formula: tuple[Term, ...] = struct.field(pytree_node=False)
    derived: tuple[tuple[str, Term], ...] = struct.field(pytree_node=False, default=())
    metrics: dict[str, Any] = struct.field(default_factory=dict)

    def loss(self, counts: Mapping[str, Any] | None = None) -> Float[Array, ""]:
        """The loss of these rows, or their share of that of a whole batch with `counts` positions, by mean."""
        counts = self.counts if counts is None else counts
        return _value((1.0, self.formula), {name: Mean(m.total, counts[name]) for name, m in self.means.items()})

    @property
    def counts(self) -> dict[str, Any]:
        """Positions of each mean, by name."""
        return {name: mean.count for name, mean in self.means.items()}

    def scalars(self) -> dict[str, Array]:
        """The loss and all that is logged beside it."""
        derived = {name: _value(term, self.means) for name, term in self.derived}
        own = {name: m.value if isinstance(m, Mean) else m for name, m in self.metrics.items()}
        return {"loss": self.loss(), **derived, **own}


def _value(term: Term, means: Mapping[str, Mean]) -> Any:
    weight, what = term
    if isinstance(what, str):
        value = means[what].value
    else:
        value = _value(what[0], means)
        for part in what[1:]:
            value = value + _value(part, means)
    return value if weight == 1.0 else weight * value


def plain(*names: str) -> tuple[Term, ...]:
    """The plain sum of means."""
    return tuple((1.0, name) for name in names)


def as_loss(objective: Callable[..., Objective]) -> Callable[..., tuple[Array, dict[str, Array]]]:
    """The function that gives the loss and its metrics, the loss among them."""

    @functools.wraps(objective)
    def loss(*args: Any, **kwargs: Any) -> tuple[Array, dict[str, Array]]:
        found = objective(*args, **kwargs)
        return found.loss(), found.scalars()

    return loss
