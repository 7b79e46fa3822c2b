"""Actions under control: some are set, others made likelier or forbidden, all of it by inputs of the compiled program.

Legend: N prompts, G samples of a prompt, P prompt length, T steps that a plan covers, D width, A actions.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax.experimental import io_callback
from jaxtyping import Array, Bool, Float, Float32, Int, Int32, Key

from lam_jax.models.backbone import Backbone
from lam_jax.models.inputs import Batch
from lam_jax.nn.leaf import Leaf
from lam_jax.nn.rope import Rotary
from lam_jax.nn.stored import Storage
from lam_jax.rollout.actions import Act, ActionSpace, Penalty
from lam_jax.rollout.sampling import NEVER, Sampling

FREE = -1  # in a plan: the agent chooses
# Told the token and the action of each step of the one sample; true ends the answer there.
Watcher = Callable[[int, int], bool]


class SteeredActions(struct.PyTreeNode):
    """An action space whose logits are changed before an action is drawn.

    Where the plan sets an action, it is taken whatever logits and bias are; elsewhere the bias is added to the logits
    (before temperature and truncation; `NEVER` forbids an action). Neither is static: another bias, or plan of the
    same length, compiles nothing. Without bias and plan the draws are those of the space itself.
    """

    space: ActionSpace
    bias: Float32[Array, "G A"] | Float32[Array, "N G A"] | Leaf  # by sample
    plan: Int32[Array, " T"] | Leaf | None = None  # of all samples: `FREE` or an action, by step; free beyond
    watcher: Watcher | None = struct.field(pytree_node=False, default=None)  # of one prompt with one sample

    @property
    def backbone(self) -> Backbone:
        """What reads the tokens."""
        return self.space.backbone

    @property
    def specs(self) -> Any:
        """Specs of the weights."""
        return self.space.specs

    def begin(
        self, hidden: Float[Array, "N P D"], prompts: Batch, samples: int, length: int
    ) -> tuple[Float[Array, "N A"], Any]:
        """Logits of the first action, and the space's own state."""
        logits, state = self.space.begin(hidden, prompts, samples, length)
        return self._planned(logits, jnp.int32(0)), state

    def decoding(self, weights: Storage = "same") -> "SteeredActions":
        """The same with weights laid out for decoding."""
        return self.replace(space=self.space.decoding(weights))

    def advance(
        self, state: Any, hidden: Float[Array, "N G 1 D"], rotary: Rotary, has_image: Array, step: Int[Array, ""]
    ) -> tuple[Float[Array, "N G A"], Any]:
        """Logits of the action after that of `step`."""
        logits, state = self.space.advance(state, hidden, rotary, has_image, step)
        return self._planned(logits, step + 1), state

    def act(
        self,
        keys: Key[Array, "N G"],
        hidden: Float[Array, "N G D"],
        logits: Float[Array, "N G A"],
        has_image: Bool[Array, " N"],
        sampling: Sampling,
        penalise: Penalty,
    ) -> Act:
        """As the space acts under the bias; the watcher may end the answer."""
        bias = jnp.broadcast_to(self.bias.astype(logits.dtype), logits.shape)
        found = self.space.act(keys, hidden, logits + bias, has_image, sampling, penalise)
        if self.watcher is None:
            return found
        watcher = self.watcher

        def tell(token: Any, action: Any) -> np.ndarray:
            return np.asarray(watcher(int(token), int(action)))

        stop = io_callback(tell, jax.ShapeDtypeStruct((), bool), found.token[0, 0], found.drawn.action[0, 0])
        return found._replace(token=jnp.where(stop, self.backbone.config.eos_ids[0], found.token))

    def _planned(self, logits: Float[Array, "*B A"], step: Int[Array, ""]) -> Float[Array, "*B A"]:
        return logits if self.plan is None else planned_logits(logits, self.plan, step)


def planned_logits(
    logits: Float[Array, "*B A"], plan: Int32[Array, " T"], step: Int[Array, ""]
) -> Float[Array, "*B A"]:
    """The logits of `step`, or where the plan sets an action there 0 for it and twice `NEVER` for all others.

    Twice, so that it stays the likeliest one if a bias forbids it.
    """
    steps = plan.shape[0]
    planned = jnp.where(step < steps, plan[jnp.minimum(step, steps - 1)], FREE)
    alone = jnp.where(jnp.arange(logits.shape[-1]) == planned, 0.0, 2 * NEVER).astype(logits.dtype)
    return jnp.where(planned == FREE, logits, jnp.broadcast_to(alone, logits.shape))


def forcing(actions: Int[Any, " G"], count: int) -> Float32[Array, "G A"]:
    """The bias that leaves each sample no action of the `count` but its own."""
    return jnp.where(jnp.asarray(actions)[:, None] == jnp.arange(count)[None], 0.0, NEVER).astype(jnp.float32)
