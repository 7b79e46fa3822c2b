"""Endless shuffled batches through Grain, resumable at any batch, one thread that works ahead; and one pass in order.

All processes walk one stream: every epoch is a shuffle of its own, and of each global batch a process makes the rows
that its devices hold. Hence the global batches and the position in the stream do not depend on the number of processes.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Generic, TypeVar

from lam_jax.data.collator import Collated
from lam_jax.data.schemas import Example

Row = TypeVar("Row")
Out = TypeVar("Out")
ENDLESS = 2**62  # batches


@dataclasses.dataclass(frozen=True)
class LoaderConfig:
    """Order and sharding of the stream.

    Attributes:
      batch_size: rows of the global batch.
      seed: of the shuffles.
      rows: which rows of each global batch this process makes, in order; None: all. `lam_jax.parallel.rows.own_rows`
        names those that the process's devices hold.
      prefetch: batches made ahead by a thread of their own; 0 makes them when asked.
    """

    batch_size: int
    seed: int = 0
    rows: tuple[int, ...] | None = None
    prefetch: int = 2

    def __post_init__(self):
        if self.batch_size < 1:
            raise ValueError(f"LoaderConfig.batch_size must be at least 1, got {self.batch_size}.")
        if self.rows is not None and (not self.rows or not set(self.rows) <= set(range(self.batch_size))):
            raise ValueError(
                f"LoaderConfig.rows must be some of the {self.batch_size} rows of the batch (0 to "
                f"{self.batch_size - 1}), got {self.rows}."
            )
        if self.prefetch < 0:
            raise ValueError(f"LoaderConfig.prefetch must be at least 0, got {self.prefetch}.")


class Loader(Iterator[Out], Generic[Row, Out]):
    """Iterates over `collate` of this process's rows of each global batch, without end.

    Args:
      examples: random-access rows, usually examples.
      collate: makes a batch of a list of rows, usually a `Collator`.

    Raises:
      ValueError: there are no rows.
    """

    def __init__(self, examples: Sequence[Row], collate: Callable[[list[Row]], Out], config: LoaderConfig):
        if not len(examples):
            raise ValueError("Loader: found no rows; expected at least one. Check the split and the reader's drops.")
        import grain  # here, so that rollouts and updates, which use other parts of this module, do without it

        self.config = config
        self.rows = len(examples)
        stream = grain.MapDataset.source(examples).shuffle(seed=config.seed).repeat(None)
        own = range(config.batch_size) if config.rows is None else config.rows

        def make(batch: int) -> Out:
            rows = (stream[batch * config.batch_size + row] for row in own)
            return collate([row for row in rows if row is not None])  # an endless stream has them all

        batches = grain.MapDataset.range(ENDLESS).map(make)
        # One thread: batches come in order whatever the number, and more would take cores from the model on a CPU.
        options = grain.ReadOptions(num_threads=min(config.prefetch, 1), prefetch_buffer_size=config.prefetch)
        self._iterator = iter(batches.to_iter_dataset(options))

    def __next__(self) -> Out:
        return next(self._iterator)

    def get_state(self) -> dict[str, Any]:
        """JSON-able position in the stream; batches made ahead do not count."""
        return {"rows": self.rows, "seed": self.config.seed, "position": self._iterator.get_state()}

    def set_state(self, state: dict[str, Any]) -> None:
        """Go to a position, so that the next batch is the one that followed it.

        Raises:
          ValueError: the state belongs to another data set or another shuffle.
        """
        for name, here in (("rows", self.rows), ("seed", self.config.seed)):
            if state.get(name) != here:
                raise ValueError(
                    f"Loader: found a saved state with {name} {state.get(name)}; expected {here}, as this loader has. "
                    "Resume with the data and seed that the run started with."
                )
        self._iterator.set_state(state["position"])


class Placed(Iterator[Any]):
    """A positioned stream whose items pass through a function, usually onto the devices.

    Args:
        source: the stream.
        function: of an item.
        note: of an item before it passes through, metrics of the step that it is for.

    Attributes:
        noted: metrics of the newest item, those of the source included.
    """

    def __init__(
        self, source: Any, function: Callable[[Any], Any], note: Callable[[Any], Mapping[str, Any]] | None = None
    ):
        self.source, self.function, self.note = source, function, note
        self.noted: dict[str, Any] = {}

    def __next__(self) -> Any:
        item = next(self.source)
        self.noted = {**getattr(self.source, "noted", {}), **(self.note(item) if self.note else {})}
        return self.function(item)

    def get_state(self) -> dict[str, Any]:
        """The source's position."""
        return self.source.get_state()

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes to a position of the source."""
        self.source.set_state(state)


class Peekable(Iterator[Out]):
    """A positioned stream whose next item can be looked at: it stays the next one, for the position too."""

    def __init__(self, source: Any):
        self.source = source
        self._held: list[tuple[Any, Any]] = []  # at most one item, with the position before it

    def peek(self) -> Any:
        """The item that comes next."""
        if not self._held:
            before = self.source.get_state()
            self._held.append((next(self.source), before))
        return self._held[0][0]

    def __next__(self) -> Any:
        return self._held.pop()[0] if self._held else next(self.source)

    def get_state(self) -> dict[str, Any]:
        """The position of the next item."""
        return self._held[0][1] if self._held else self.source.get_state()

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes to a position."""
        self._held.clear()
        self.source.set_state(state)


class Together(Iterator[tuple[Any, ...]]):
    """Items of several positioned streams, side by side."""

    def __init__(self, *sources: Any):
        self.sources = sources

    @property
    def noted(self) -> dict[str, Any]:
        """Metrics of the newest items, added up by name."""
        total: dict[str, Any] = {}
        for source in self.sources:
            for name, value in getattr(source, "noted", {}).items():
                total[name] = total[name] + value if name in total else value
        return total

    def __next__(self) -> tuple[Any, ...]:
        return tuple(next(source) for source in self.sources)

    def get_state(self) -> dict[str, Any]:
        """The position of each."""
        return {str(i): source.get_state() for i, source in enumerate(self.sources)}

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes to the position of each."""
        for i, source in enumerate(self.sources):
            source.set_state(state[str(i)])


def in_order(
    examples: Sequence[Example], collate: Callable[[Sequence[Example], int], Collated], batch_size: int
) -> Iterator[Collated]:
    """All rows once, in order, for evaluation; the last batch is filled up with padding rows to keep one shape."""
    for start in range(0, len(examples), batch_size):
        yield collate(examples[start : start + batch_size], batch_size)
