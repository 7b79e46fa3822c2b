"""Endless shuffled batches through Grain, resumable at any batch, one thread that works ahead; and one pass in order.

All processes walk one stream: every epoch is a shuffle of its own, and of each global batch a process makes the rows
that its devices hold. Hence the global batches and the position in the stream do not depend on the number of processes.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Generic, TypeVar

from lam_jax.data.bad_rows import BadRowError, Skip, Skipped, too_many
from lam_jax.data.collator import Collated, Collator, Row
from lam_jax.data.schemas import Example

Item = TypeVar("Item")
Out = TypeVar("Out")
ENDLESS = 2**62  # batches
TELLING = 20  # rows of an evaluation, below which a share of bad ones says nothing: one bad row must not end a run


@dataclasses.dataclass(frozen=True)
class LoaderConfig:
    """Order and sharding of the stream.

    Attributes:
      batch_size: rows of the global batch.
      seed: of the shuffles.
      rows: which rows of each global batch this process makes, in order; None: all. `lam_jax.parallel.rows.own_rows`
        names those that the process's devices hold.
      prefetch: batches made ahead by a thread of their own (each by one, where a collator's workers decode pictures); 0
        makes them when asked.
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


class Loader(Iterator[Out], Generic[Item, Out]):
    """Iterates over `collate` of this process's rows of each global batch, without end.

    With a `Collator` that skips, the next good row of `examples`, by index, stands in for a bad one. So which rows a
    batch holds depends on the rows alone: not on the number of processes or workers, nor on where a run was resumed.

    Args:
      examples: random-access rows, usually examples.
      collate: makes a batch of a list of rows, usually a `Collator`.

    Raises:
      ValueError: there are no rows.
    """

    def __init__(self, examples: Sequence[Item], collate: Callable[[list[Item]], Out], config: LoaderConfig):
        if not len(examples):
            raise ValueError("Loader: found no rows; expected at least one. Check the split and the reader's drops.")
        import grain  # here, so that rollouts and updates, which use other parts of this module, do without it

        self.config = config
        self.rows = len(examples)
        # Of the indices, in the order that the rows themselves would have.
        stream = grain.MapDataset.range(self.rows).shuffle(seed=config.seed).repeat(None)
        own = range(config.batch_size) if config.rows is None else config.rows
        by_row = isinstance(collate, Collator)
        self._skip: Skip | None = collate.skip if by_row else None
        make = _Filled(examples, collate) if by_row else lambda chosen: collate([examples[i] for i in chosen])

        def batch(number: int) -> Any:
            rows = (stream[number * config.batch_size + row] for row in own)
            return make([row for row in rows if row is not None])  # an endless stream has them all

        batches = grain.MapDataset.range(ENDLESS).map(batch)
        # One thread: batches come in order whatever the number, and more would take cores from the model on a CPU. But
        # where workers decode, a thread waits for them, and several keep them busy.
        threads = config.prefetch if by_row and collate.workers else min(config.prefetch, 1)
        options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=config.prefetch)
        self._iterator = iter(batches.to_iter_dataset(options))

    def __next__(self) -> Out:
        made: Any = next(self._iterator)
        if self._skip is not None and made.skipped:
            self._skip.log(made.skipped)  # here and not when it is made ahead: what is not used is not told of
        return made

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


class _Filled:
    """Batches of rows by index, bad ones replaced by the next good one."""

    def __init__(self, examples: Sequence[Any], collate: Collator):
        self.examples, self.collate = examples, collate
        self._bad: set[int] = set()

    def __call__(self, chosen: Sequence[int]) -> Collated:
        begun = [self.collate.begin(self.examples[index]) for index in chosen]
        rows: list[Row] = []
        skipped: list[Skipped] = []
        for place, (index, wait) in enumerate(zip(chosen, begun)):
            row, bad = self._good(index, wait, place)
            rows.append(row)
            skipped += bad
        return self.collate.join(rows, len(rows), skipped)

    def _good(self, index: int, wait: Callable[[], Row], place: int) -> tuple[Row, list[Skipped]]:
        """The row `index`, or the next good one, and those passed over."""
        count, bad = len(self.examples), []
        for other in (number % count for number in range(index, index + count)):
            try:
                row = wait()
            except BadRowError as error:
                skip = self.collate.skip
                if skip is None:
                    raise
                self._bad.add(other)
                skip.require_few(len(self._bad), count, error.text)
                bad.append(Skipped.of(self.examples[other], error, place))
                wait = functools.partial(_now, self.collate, self.examples[(other + 1) % count])
            else:
                return row, [dataclasses.replace(one, replaced_by=row.example.where) for one in bad]
        raise too_many(count, count, 1.0, bad[-1].text)


def _now(collate: Collator, example: Example) -> Row:
    return collate.begin(example)()


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
    """All rows once, in order, for evaluation; the last batch is filled up with padding rows to keep one shape.

    With a `Collator` that skips, bad rows are left out, and so is a batch of nothing else.

    Raises:
      DataError: at the end, too many rows were bad.
    """
    bad: list[Skipped] = []
    for start in range(0, len(examples), batch_size):
        made = collate(examples[start : start + batch_size], batch_size)
        bad += made.skipped
        if made.examples:
            yield made
    if bad and isinstance(collate, Collator) and collate.skip is not None:
        if len(examples) >= TELLING:
            collate.skip.require_few(len(bad), len(examples), bad[0].text)
        if len(bad) == len(examples):
            raise too_many(len(bad), len(bad), collate.skip.most, bad[0].text)
