"""What changes from one training step to the next, as one pytree."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.struct import PyTreeNode
from jaxtyping import Array, Float, Int32, Key

from lam_jax.nn.leaf import Leaf
from lam_jax.parallel.multihost import to_host
from lam_jax.parallel.replicated import put_replicated
from lam_jax.train.optimiser import Optimiser, global_norm, replicated_beside


class TrainState(PyTreeNode):
    """State of one training phase.

    Attributes:
        trainable: the weights that train (None holes for the others), fp32.
        optimiser_state: of those weights only.
        step: number of optimiser steps gone through, those of stage 6 that nothing was learned from included: they
            leave weights and optimiser state as they are (`skip`).
        key: base random key of the phase; `step_key` derives the one of the present step.
    """

    trainable: Any
    optimiser_state: Any
    step: Int32[Array, ""] | Leaf
    key: Key[Array, ""] | Leaf

    @classmethod
    def create(cls, trainable: Any, optimiser: Optimiser, key: Key[Array, ""]) -> "TrainState":
        """Step 0. Weights and key are copied, since steps usually donate the state.

        Step number and key are placed where a step leaves them: otherwise the second step would compile again.
        """
        trainable, key = jax.tree.map(jnp.copy, (trainable, key))
        step, key = put_replicated((jnp.zeros((), jnp.int32), key), replicated_beside(trainable))
        return cls(trainable=trainable, optimiser_state=optimiser.init(trainable), step=step, key=key)

    def step_key(self) -> Key[Array, ""]:
        """A key for this step; it depends on the base key and the step number only, so a resumed run draws the same."""
        return jax.random.fold_in(self.key, self.step)

    def apply_gradients(self, gradients: Any, optimiser: Optimiser) -> tuple["TrainState", dict[str, Float[Array, ""]]]:
        """One optimiser step.

        Returns:
            The next state, and grad_norm (before clipping), lr, update_norm.
        """
        with jax.named_scope("optimiser"):  # named in compiled programs and profiles
            trainable, optimiser_state, updates = optimiser.update(gradients, self.optimiser_state, self.trainable)
        done = optimiser.updates_done(self.optimiser_state)
        metrics = {
            "grad_norm": global_norm(gradients),
            "lr": optimiser.learning_rate(self.step if done is None else done),
            "update_norm": global_norm(updates),
        }
        state = self.replace(trainable=trainable, optimiser_state=optimiser_state, step=self.step + 1)
        return state, metrics

    def skip(self, optimiser: Optimiser) -> tuple["TrainState", dict[str, float]]:
        """A step without anything to learn from: only its number is counted, so that the next one draws other keys.

        Returns:
            The state with the same weights, moments and place in the schedule, and the metrics of `apply_gradients`.
        """
        done = optimiser.updates_done(self.optimiser_state)
        rate = optimiser.learning_rate(jnp.asarray(to_host(self.step if done is None else done)))
        # Placed where an update leaves it: otherwise the next one would compile again.
        step = put_replicated(np.asarray(to_host(self.step)) + np.int32(1), self.step.sharding)
        return self.replace(step=step), {"grad_norm": 0.0, "lr": float(rate), "update_norm": 0.0}
