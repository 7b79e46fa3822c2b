"""Environments of JAX libraries: a game as pure functions, jitted and mapped over games, behind the protocol.

    def catch():                                   # a function of a module: a recipe names it
        return gymnax_game("Catch-bsuite")

    environment = JaxEnvironment(catch, ("left", "stay", "right"), show, turns=9)

Legend: B games.
"""

import dataclasses
import functools
import re
from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np
from jaxtyping import Array, Bool, UInt32

from lam_jax.data.schemas import Example, Message, Where
from lam_jax.environments.environment import EnvironmentStep, Observation
from lam_jax.errors import RewardError


@runtime_checkable
class JaxGame(Protocol):
    """One game as functions that jax can trace."""

    def reset(self, key: Array) -> tuple[Any, Any]:
        """The first observation, and the state."""
        ...

    def step(self, key: Array, state: Any, action: Array) -> tuple[Any, Any, Array, Array]:
        """Observation, state, reward and whether the game is over; it does not begin anew by itself."""
        ...


@dataclasses.dataclass(frozen=True)
class _State:
    games: Any  # [B, ..]
    seeds: UInt32[np.ndarray, " B"]
    turn: int
    over: Bool[np.ndarray, " B"]


@dataclasses.dataclass(frozen=True)
class JaxEnvironment:
    """A `JaxGame` that is played in words.

    A row's game begins as its facts' "seed" says, so that all samples of a prompt begin alike; what is random later on
    differs between them. An answer is the word of an action, whatever its case and the marks around it; any other
    answer ends the game without a reward.

    Attributes:
        make: gives the game; called once.
        actions: the word of each action, in the order of their numbers.
        show: what is seen, of the observation of one game as NumPy arrays.
        turns: most answers in a game.
    """

    make: Callable[[], JaxGame]
    actions: tuple[str, ...]
    show: Callable[[Any], Observation]
    turns: int

    def __post_init__(self):
        words = [_word(action) for action in self.actions]
        if not words or len(set(words)) < len(words) or "" in words:
            raise ValueError(f"JaxEnvironment.actions is {self.actions}, expected one word or more, all different.")
        if self.turns < 1:
            raise ValueError(f"JaxEnvironment.turns is {self.turns}, expected at least 1.")

    def begin(self, seed: int, request: str, answer: str | None = None, name: str | None = None) -> Example:
        """A row whose game begins with this seed: the request beside what is seen first.

        Args:
            seed: of the game.
            request: what the user asks for; what is shown of the first observation stands before it.
            answer: a reference; None: the row has none.
            name: the row's id; default: made of the seed.
        """
        seen, _ = _functions(self.make)[0](np.array([seed], np.uint32))
        first = self.show(_game(seen, 0))
        text = f"{first.text}\n{request}" if first.text else request
        messages: list[Message] = [{"role": "user", "content": text}]
        if answer is not None:
            messages.append({"role": "assistant", "content": answer})
        name = name or f"game-{seed}"
        return Example(name, tuple(messages), first.images, {"seed": seed}, Where("games", seed))

    def reset(self, examples: Sequence[Example], seeds: UInt32[np.ndarray, " B"]) -> _State:
        """The games of the rows' seeds.

        Raises:
            RewardError: a row has no seed.
        """
        found = [(example.facts or {}).get("seed") for example in examples]
        if any(not isinstance(seed, int) for seed in found):
            row = next(example for example, seed in zip(examples, found) if not isinstance(seed, int))
            raise RewardError(
                f'{row.where}: found facts {row.facts!r}, expected a whole number as "seed", for its game. '
                "Make rows with JaxEnvironment.begin."
            )
        _, games = _functions(self.make)[0](np.array(found, np.uint32))
        return _State(games, np.asarray(seeds, np.uint32), 0, np.zeros(len(found), bool))

    def step(self, state: _State, answers: Sequence[str]) -> tuple[_State, EnvironmentStep]:
        """Takes the actions that the answers name."""
        words = {_word(action): number for number, action in enumerate(self.actions)}
        numbers = [words.get(_word(answer), -1) for answer in answers]
        unknown = np.array([number < 0 for number in numbers]) | state.over
        actions = np.array([max(0, number) for number in numbers], np.int32)
        step = _functions(self.make)[1]
        seen, games, rewards, done = step(state.seeds, np.uint32(state.turn), state.games, actions)
        seen, rewards, done = jax.device_get((seen, rewards, done))
        over = unknown | np.asarray(done, bool)
        observations = [Observation("") if over[game] else self.show(_game(seen, game)) for game in range(len(over))]
        gained = np.where(unknown, 0.0, np.asarray(rewards, np.float64))
        legal = np.array([float(number >= 0) for number in numbers])
        return _State(games, state.seeds, state.turn + 1, over), EnvironmentStep(
            observations, gained, over, {"legal": legal}
        )


@functools.cache
def _functions(make: Callable[[], JaxGame]) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """(seeds -> observations, states) and (seeds, turn, states, actions -> what `JaxGame.step` gives), of B games."""
    game = make()

    @jax.jit
    def reset(seeds: Array) -> tuple[Any, Any]:
        return jax.vmap(lambda seed: game.reset(jax.random.key(seed)))(seeds)

    @jax.jit
    def step(seeds: Array, turn: Array, states: Any, actions: Array) -> tuple[Any, Any, Array, Array]:
        def one(seed: Array, state: Any, action: Array) -> tuple[Any, Any, Array, Array]:
            return game.step(jax.random.fold_in(jax.random.key(seed), turn), state, action)

        return jax.vmap(one)(seeds, states, actions)

    return reset, step


def _game(tree: Any, game: int) -> Any:
    """One game of arrays [B, ..]."""
    return jax.tree.map(lambda x: np.asarray(x)[game], tree)


def _word(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.lower()))


@dataclasses.dataclass(frozen=True)
class _GymnaxGame:
    environment: Any
    parameters: Any

    def reset(self, key: Array) -> tuple[Any, Any]:
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            return self.environment.reset(key, self.parameters)

    def step(self, key: Array, state: Any, action: Array) -> tuple[Any, Any, Array, Array]:
        # `Environment.step` would begin a new game where one is over.
        # Its code counts on jax's own promotion, whatever the program around it asks for.
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            seen, state, reward, done, *_ = self.environment.step_env(key, state, action, self.parameters)
        return seen, state, reward, done


def gymnax_game(name: str, **settings: Any) -> JaxGame:
    """An environment of gymnax; its own limit of steps is not read, `JaxEnvironment.turns` is.

    Args:
        name: as `gymnax.make` takes it.
        **settings: further arguments of it.

    Raises:
        ImportError: gymnax is not installed.
    """
    try:
        import gymnax  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ImportError(
            f"The environment {name!r} needs gymnax, which is not installed: pip install 'lam_jax[gymnax]'."
        ) from error
    return _GymnaxGame(*gymnax.make(name, **settings))
