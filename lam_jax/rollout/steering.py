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

from lam_jax.models.inputs import Batch
from lam_jax.models.qwen2_5_vl.model import QwenVL
from lam_jax.nn.leaf import Leaf
from lam_jax.nn.rope import Rotary
from lam_jax.rollout.actions import Act, ActionSpace, Penalty
from lam_jax.rollout.sampling import NEVER, SamplingConfig

FREE = -1  # in a plan: the agent chooses
# Told the token and the action of each step of the one sample; true ends the answer there.
Watcher = Callable[[int, int], bool]


class SteeredActions(struct.PyTreeNode):
    """An action space whose logits are changed before an action is drawn.

    Where the plan sets an action, it is taken whatever the agent's logits are; elsewhere the bias is added to them
    (before temperature and truncation; `NEVER` forbids an action). Neither is static: another bias or plan of the
    same length compiles nothing. Without bias and plan the draws are those of the space itself.
    """

    space: ActionSpace
    bias: Float32[Array, " A"] | Leaf
    plan: Int32[Array, " T"] | Leaf  # `FREE` or an action, by step; free beyond
    watcher: Watcher | None = struct.field(pytree_node=False, default=None)  # of one prompt with one sample

    @property
    def backbone(self) -> QwenVL:
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
        return steered(logits, self.bias, self.plan, jnp.int32(0)), state

    def decoding(self) -> "SteeredActions":
        """The same with weights laid out for decoding."""
        return self.replace(space=self.space.decoding())

    def advance(
        self, state: Any, hidden: Float[Array, "N G 1 D"], rotary: Rotary, has_image: Array, step: Int[Array, ""]
    ) -> tuple[Float[Array, "N G A"], Any]:
        """Logits of the action after that of `step`."""
        logits, state = self.space.advance(state, hidden, rotary, has_image, step)
        return steered(logits, self.bias, self.plan, step + 1), state

    def act(
        self,
        keys: Key[Array, "N G"],
        hidden: Float[Array, "N G D"],
        logits: Float[Array, "N G A"],
        has_image: Bool[Array, " N"],
        sampling: SamplingConfig,
        penalise: Penalty,
    ) -> Act:
        """As the space acts; the watcher may end the answer."""
        found = self.space.act(keys, hidden, logits, has_image, sampling, penalise)
        if self.watcher is None:
            return found
        watcher = self.watcher

        def tell(token: Any, action: Any) -> np.ndarray:
            return np.asarray(watcher(int(token), int(action)))

        stop = io_callback(tell, jax.ShapeDtypeStruct((), bool), found.token[0, 0], found.drawn.action[0, 0])
        return found._replace(token=jnp.where(stop, self.backbone.config.eos_ids[0], found.token))


def steered(
    logits: Float[Array, "*B A"], bias: Float32[Array, " A"], plan: Int32[Array, " T"], step: Int[Array, ""]
) -> Float[Array, "*B A"]:
    """Logits of `step` under a bias, or of the one action that the plan sets there: 0, and `NEVER` elsewhere."""
    steps = plan.shape[0]
    planned = jnp.where(step < steps, plan[jnp.minimum(step, steps - 1)], FREE)
    alone = jnp.where(jnp.arange(logits.shape[-1]) == planned, 0.0, NEVER)
    bias, alone = (jnp.broadcast_to(x, logits.shape) for x in (bias, alone))
    return jnp.where(planned == FREE, logits + bias, alone).astype(logits.dtype)
