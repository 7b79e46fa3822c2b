"""A loss of stages 1 to 5 as what it is: a weighted sum of means over positions (method.md section 3)."""

import functools
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float

from lam_jax.losses import Mean


class Objective(struct.PyTreeNode):
    """Means and their weights, so that parts of a batch can be put together to exactly the whole batch's loss.

    What a mean is taken over depends on the rows alone, never on weights.

    Attributes:
        terms: what the loss is made of, by name.
        weights: (name, weight) of each term.
        metrics: what is logged beside the loss: means, or scalars of these rows.
    """

    terms: dict[str, Mean]
    weights: tuple[tuple[str, float], ...] = struct.field(pytree_node=False)
    metrics: dict[str, Any]

    @classmethod
    def of(cls, terms: dict[str, Mean], weights: dict[str, float], metrics: dict[str, Any]) -> "Objective":
        """From weights by name; a term without one weighs 1."""
        return cls(terms, tuple((name, weights.get(name, 1.0)) for name in terms), metrics)

    def loss(self, counts: dict[str, Any] | None = None) -> Float[Array, ""]:
        """The loss of these rows, or their share of that of a whole batch with `counts` positions, by term."""
        total = jnp.float32(0.0)
        for name, weight in self.weights:
            term = self.terms[name]
            mean = term if counts is None else Mean(term.total, counts[name])
            total = total + weight * mean.value
        return total

    @property
    def counts(self) -> dict[str, Any]:
        """Positions of each term, by name."""
        return {name: term.count for name, term in self.terms.items()}

    def scalars(self) -> dict[str, Array]:
        """The loss and the metrics."""
        values = {name: m.value if isinstance(m, Mean) else m for name, m in self.metrics.items()}
        return {"loss": self.loss(), **values}


def as_loss(objective: Callable[..., Objective]) -> Callable[..., tuple[Array, dict[str, Array]]]:
    """The function that gives the loss and its metrics, the loss among them."""

    @functools.wraps(objective)
    def loss(*args: Any, **kwargs: Any) -> tuple[Array, dict[str, Array]]:
        found = objective(*args, **kwargs)
        return found.loss(), found.scalars()

    return loss
