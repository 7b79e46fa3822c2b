"""A function of one's own as a reward: of a module, or of a file, as in `--reward mine.py:score`.

It takes (examples [N], answers [N][G]) and gives numbers [N][G], or several named parts `{name: numbers}` whose sum is
the reward. It may be an `async def`.
"""

import asyncio
import concurrent.futures
import dataclasses
import functools
import hashlib
import importlib.util
import inspect
import math
import sys
import traceback
from collections.abc import Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from jaxtyping import Float64

from lam_jax.data.schemas import Example
from lam_jax.errors import RewardError
from lam_jax.rewards.reward import RewardShapeError, Verdicts, WithContent, describe_shape
from lam_jax.rewards.verdict import Verdict

ScoreFunction = Callable[[Sequence[Example], Sequence[Sequence[str]]], Any]


@dataclasses.dataclass(frozen=True)
class FunctionReward:
    """A function of a module as a reward.

    Attributes:
        function: (examples [N], answers [N][G]) -> numbers [N][G] or {part: numbers}; a recipe names it by its module.
    """

    function: ScoreFunction

    @property
    def name(self) -> str:
        """The function's."""
        return getattr(self.function, "__qualname__", repr(self.function))

    def content(self) -> str:
        """SHA-256 of the file that the function is written in; empty if there is none."""
        try:
            return _hash(Path(inspect.getfile(self.function)))
        except (TypeError, OSError):
            return ""

    def __call__(
        self, examples: Sequence[Example], answers: Sequence[Sequence[str]], samples: Sequence[int]
    ) -> Verdicts:
        """Verdicts whose reward is the function's number, or the sum of its parts.

        Raises:
            RewardError: the function raised an exception; names the example.
            RewardShapeError: the function gave another shape, something that is no number, or a number that is not
                finite.
        """
        return _verdicts(self.function, self.name, examples, answers, samples)


@dataclasses.dataclass(frozen=True)
class FileReward:
    """A function of a Python file as a reward; imports of the file's own folder work in it.

    Attributes:
        file: path of the file.
        function: name in it, of what `FunctionReward` takes.
        sha256: of the file when the recipe was made, so that another file of that name is another recipe.
    """

    file: str
    function: str
    sha256: str

    @classmethod
    def of(cls, file: str, function: str) -> "FileReward":
        """The reward of `file.py:function`, as the file is now.

        Raises:
            ValueError: no such file or function, or the file cannot be imported.
        """
        path = Path(file)
        if not path.is_file():
            raise ValueError(f"Reward {file}:{function}: there is no file {path}, expected `file.py:function`.")
        found = cls(file, function, _hash(path))
        found.load()
        return found

    @property
    def name(self) -> str:
        """The function's."""
        return self.function

    def content(self) -> str:
        """The hash."""
        return self.sha256

    def load(self) -> ScoreFunction:
        """The function; the file is read once.

        Raises:
            ValueError: as `of`, or the file has changed.
        """
        return _load(self.file, self.function, self.sha256)

    def __call__(
        self, examples: Sequence[Example], answers: Sequence[Sequence[str]], samples: Sequence[int]
    ) -> Verdicts:
        """As of `FunctionReward`."""
        return _verdicts(self.load(), f"{self.file}:{self.function}", examples, answers, samples)


@functools.cache
def _load(file: str, function: str, sha256: str) -> ScoreFunction:
    path, name = Path(file).absolute(), f"{file}:{function}"
    if not path.is_file():
        raise ValueError(f"Reward {name}: there is no file {path}, expected the file that the recipe was made with.")
    if _hash(path) != sha256:
        raise ValueError(f"Reward {name}: the file has changed since the recipe was made; make the recipe again.")
    module = module_of(path)
    found = getattr(module, function, None)
    if not callable(found):
        known = sorted(n for n, v in vars(module).items() if inspect.isfunction(v) and v.__module__ == module.__name__)
        raise ValueError(f"Reward {name}: the file has no function {function!r}, expected one of {known}.")
    return found


@dataclasses.dataclass(frozen=True)
class WeightedReward:
    """The weighted sum of several rewards; each is logged apart, without its weight.

    Attributes:
        rewards: (name, reward, weight) of each.
    """

    rewards: tuple[tuple[str, Any, float], ...]

    def __post_init__(self):
        names = [name for name, _, _ in self.rewards]
        if not names or len(set(names)) < len(names):
            raise ValueError(f"WeightedReward.rewards are named {names}, expected one or more different names.")
        if odd := [(name, weight) for name, _, weight in self.rewards if not math.isfinite(weight)]:
            raise ValueError(f"WeightedReward.rewards: {odd[0][0]!r} has weight {odd[0][1]}, expected a finite number.")

    def content(self) -> str:
        """The hashes of those that have one."""
        return " ".join(reward.content() for _, reward, _ in self.rewards if isinstance(reward, WithContent))

    def __call__(
        self, examples: Sequence[Example], answers: Sequence[Sequence[str]], samples: Sequence[int]
    ) -> Verdicts:
        """Verdicts whose reward is the sum; one that failed in one of the rewards has failed."""
        found = [(name, reward(examples, answers, samples), weight) for name, reward, weight in self.rewards]
        return [
            [
                _weighted([(name, verdicts[row][column], weight) for name, verdicts, weight in found])
                for column in range(len(samples))
            ]
            for row in range(len(examples))
        ]


def _weighted(parts: Sequence[tuple[str, Verdict, float]]) -> Verdict:
    failed = [f"{name}: {verdict.error}" for name, verdict, _ in parts if not verdict.ok]
    if failed:
        kind = next((verdict.kind for _, verdict, _ in parts if not verdict.ok and verdict.kind), None)
        return Verdict(error="; ".join(failed), kind=kind)
    total = sum(weight * verdict.reward for _, verdict, weight in parts)
    named = {name: verdict.reward for name, verdict, _ in parts}
    for name, verdict, _ in parts:
        if len(verdict.named) > 1:
            named |= {f"{name}.{part}": value for part, value in verdict.named.items()}
    return Verdict({"reward": (total, 1.0)}, parts=named)


@functools.cache
def module_of(path: Path) -> ModuleType:
    """The module of a Python file, under the file's own name, so that functions in it can be found by it later.

    Raises:
        ValueError: the file cannot be imported, or a module of its name is there already.
    """
    name = path.stem
    known = sys.modules.get(name)
    if known is not None and Path(getattr(known, "__file__", None) or "").absolute() == path:
        return known
    if known is not None or not name.isidentifier():
        raise ValueError(f"{path}: its name {name!r} is taken by a module or is no module's name; rename the file.")
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ValueError(f"{path}: no Python file, expected one that ends in .py.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException as error:
        del sys.modules[name]
        if not isinstance(error, Exception):
            raise
        raise ValueError(f"{path}: cannot be imported: {_what(error, path.name)}.") from error
    return module


def _verdicts(
    function: ScoreFunction,
    name: str,
    examples: Sequence[Example],
    answers: Sequence[Sequence[str]],
    samples: Sequence[int],
) -> Verdicts:
    found = _call(function, name, examples, answers)
    parts = dict(found) if isinstance(found, Mapping) else {"reward": found}
    if not parts:
        raise RewardShapeError(f"Reward {name}: found no parts, expected one or more by name.")
    if stray := [part for part in parts if not isinstance(part, str) or not part]:
        raise RewardShapeError(f"Reward {name}: found a part called {stray[0]!r}, expected names, texts not empty.")
    values = {
        part: _numbers(value, name if not isinstance(found, Mapping) else f"{name}, part {part!r}", examples, samples)
        for part, value in parts.items()
    }
    with np.errstate(over="ignore"):
        total = np.sum(list(values.values()), axis=0)
    _require_finite(total, f"{name}, sum of its parts", examples, samples)
    apart = values if isinstance(found, Mapping) else {}
    return [
        [
            Verdict(
                {"reward": (float(total[row, column]), 1.0)}, parts={p: float(v[row, column]) for p, v in apart.items()}
            )
            for column in range(len(samples))
        ]
        for row in range(len(examples))
    ]


def _numbers(found: Any, name: str, examples: Sequence[Example], samples: Sequence[int]) -> Float64[np.ndarray, "N G"]:
    wanted = (len(examples), len(samples))
    values = as_numbers(found)
    if values is None or values.shape != wanted:
        raise RewardShapeError(
            f"Reward {name}: found {describe_shape(found)}{_no_number(found)}, expected one number an answer: shape "
            f"{list(wanted)} (prompts, samples)."
        )
    _require_finite(values, name, examples, samples)
    return values


def _require_finite(
    values: Float64[np.ndarray, "N G"], name: str, examples: Sequence[Example], samples: Sequence[int]
) -> None:
    if not np.isfinite(values).all():
        row, column = np.argwhere(~np.isfinite(values))[0]
        raise RewardShapeError(
            f"Reward {name}: found {values[row, column]} for sample {samples[column]} of row "
            f"{examples[row].id!r}, expected a finite number."
        )


def as_numbers(found: Any) -> Float64[np.ndarray, "..."] | None:
    """Numbers of any shape as float64; None for anything that is not numbers throughout.

    Lists, arrays of numpy, jax and torch (on any device) and booleans, which are 0 and 1, are numbers. Texts are not,
    though numpy would read them, nor are masked numbers, whose values nobody meant. None becomes NaN.
    """
    if isinstance(found, Mapping | set | frozenset | str | bytes) or np.ma.is_masked(found):
        return None
    try:
        detach: Any = getattr(found, "detach", None)
        if callable(detach):  # a tensor of torch, which may lie on a device
            tensor: Any = detach()
            found = tensor.cpu().double().numpy()
        values = np.asarray(found)
        if values.dtype.kind == "O":
            # Lists that hold None or numbers of other kinds; what is no number at all is a number nowhere.
            if any(isinstance(one, str | bytes | Mapping | complex) for one in values.ravel().tolist()):
                return None
        elif values.dtype.kind not in "biuf" and np.dtype(values.dtype).name not in ("bfloat16", "float8_e4m3fn"):
            return None
        return values.astype(np.float64)
    except Exception:  # whatever a foreign object does when it is asked for numbers
        return None


def _no_number(found: Any) -> str:
    """What of a list of lists is no number, for a message."""
    if isinstance(found, np.ma.MaskedArray):
        return " with masked numbers"
    rows = found.tolist() if isinstance(found, np.ndarray) else found
    for row in rows if isinstance(rows, list | tuple) else ():
        for one in row if isinstance(row, list | tuple) else ():
            if not _is_number(one):
                return f", among them {type(one).__name__} {_shown(one)}"
    return ""


def _is_number(one: Any) -> bool:
    """Whether it is one number that float64 holds; a list or an array shows in the shape."""
    if isinstance(one, str | bytes | complex):
        return False
    try:
        float(one)
    except Exception:  # whatever a foreign object does; an integer may be too large
        return isinstance(one, list | tuple | np.ndarray) or one is None
    return True


def _shown(one: Any) -> str:
    try:
        return f"{one!r:.60}"
    except Exception:  # Python writes no integers of thousands of digits
        return "that cannot be written"


def _call(function: ScoreFunction, name: str, examples: Sequence[Example], answers: Sequence[Sequence[str]]) -> Any:
    try:
        # Copies: a function may sort or empty its lists, which other rewards, logs and refills read after it.
        return _settled(function(list(examples), [list(group) for group in answers]))
    except Exception as error:
        guilty, raised = _guilty(function, examples, answers)
        where = f"row {guilty.id!r} ({guilty.where})" if guilty else f"{len(examples)} rows together"
        source = Path(getattr(inspect.unwrap(function), "__code__", _call.__code__).co_filename).name
        raise RewardError(
            f"Reward {name} raised {_what(raised or error, source)} for {where}. Correct the function and run the "
            "same command again; what the run had done is kept."
        ) from error


def _guilty(
    function: ScoreFunction, examples: Sequence[Example], answers: Sequence[Sequence[str]]
) -> tuple[Example | None, Exception | None]:
    """The first example that the function raises an exception for when it is called for one at a time."""
    for example, group in zip(examples, answers, strict=True):
        try:
            _settled(function([example], [list(group)]))
        except Exception as error:
            return example, error
    return None, None


def _what(error: Exception, file: str) -> str:
    """An exception in a few words, with its innermost line in `file`."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename).name == file]
    place = f" ({file}, line {lines[-1]})" if lines else ""
    return f"{type(error).__name__}: {error}{place}"


def _settled(found: Any) -> Any:
    """What an `async def` gives in the end; a thread of its own, since the caller may be inside an event loop."""
    if not inspect.isawaitable(found):
        return found

    async def wait() -> Any:
        return await found

    run: Callable[[Coroutine[Any, Any, Any]], Any] = asyncio.run
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        return pool.submit(run, wait()).result()


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
