"""A rollout under way: its generation on the devices, and its scoring here or in a thread meanwhile."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import jax

from lam_jax.data.collator import Collated
from lam_jax.models.inputs import Batch
from lam_jax.rewards.reward import Reward
from lam_jax.rollout.engine import Rollout
from lam_jax.train.rl_rewards import Asked, Decode, ask

_one_at_a_time = threading.Lock()  # a reward of the user's own need not bear two calls at once


class Rolling:
    """A rollout whose answers are scored when it is complete.

    Args:
        step: of the phase, that it is for.
        number: 0, or that of a refill.
        drawn: its prompts, from the host.
        prompts: the same on the mesh, filled up.
        out: the rollout, which may still be computed.
        began: when it was asked for (`time.monotonic()`): what it takes counts from then on, tracing and what a backend
            does not do in the background included; None: in an earlier session, so that its seconds are not known.

    Attributes:
        generation_s: seconds until it was complete; None: not known.
        reward_s: seconds of its scoring.
    """

    def __init__(self, step: int, number: int, drawn: Collated, prompts: Batch, out: Rollout, began: float | None):
        self.step, self.number, self.drawn, self.prompts, self.out = step, number, drawn, prompts, out
        self.generation_s: float | None = None
        self.reward_s = 0.0
        self._began = began
        self._asked: Future[Asked] | None = None

    def begin(self, decode: Decode, reward: Reward) -> None:
        """Scores in a thread, once the rollout is complete."""
        if self._asked is None:
            # Not a pool's: a run that ends does not wait for a judge.
            self._asked = _in_thread(lambda: self._ask(decode, reward))

    def asked(self, decode: Decode, reward: Reward) -> Asked:
        """This process's scores; those of a thread are waited for."""
        return self._ask(decode, reward) if self._asked is None else self._asked.result()

    def settle(self) -> None:
        """Waits until no thread asks for its scores any more."""
        if self._asked is not None:
            self._asked.result()

    def _ask(self, decode: Decode, reward: Reward) -> Asked:
        jax.block_until_ready(self.out)
        generated = time.monotonic()
        self.generation_s = None if self._began is None else generated - self._began
        with _one_at_a_time:
            found = ask(self.out.tokens, self.out.mask, self.drawn.examples, decode, reward)
        self.reward_s = time.monotonic() - generated
        return found


def _in_thread(function: Callable[[], Any]) -> Future[Any]:
    future: Future[Any] = Future()

    def run() -> None:
        try:
            future.set_result(function())
        except BaseException as error:  # told to whoever waits for it
            future.set_exception(error)

    threading.Thread(target=run, name="rewards", daemon=True).start()
    return future
