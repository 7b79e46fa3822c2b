"""Endless shuffled batches through Grain, resumable at any batch, one thread that works ahead; and one pass in order.

All processes walk one stream: every epoch is a shuffle of its own, and of each global batch process i takes rows i,
i + n, i + 2n, ... Hence the global batches do not depend on the number of processes, shards are disjoint, and every row
comes once an epoch.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, TypeVar

import grain

from lam_jax.data.collator import Collated
from lam_jax.data.schemas import Example

Row = TypeVar("Row")
Out = TypeVar("Out")


@dataclasses.dataclass(frozen=True)
class LoaderConfig:
    """Order and sharding of the stream.

    Attributes:
      batch_size: rows of the global batch.
      seed: of the shuffles.
      process_index: this process's place in `process_count`.
      process_count: number of processes that share each global batch.
      prefetch: batches made ahead by a thread of their own; 0 makes them when asked.
    """

    batch_size: int
    seed: int = 0
    process_index: int = 0
    process_count: int = 1
    prefetch: int = 2

    def __post_init__(self):
        if self.batch_size < 1 or self.process_count < 1 or self.batch_size % self.process_count:
            raise ValueError(
                f"LoaderConfig.batch_size must be a positive multiple of process_count {self.process_count}, "
                f"got {self.batch_size}."
            )
        if not 0 <= self.process_index < self.process_count:
            raise ValueError(
                f"LoaderConfig.process_index must lie in [0, {self.process_count}), got {self.process_index}."
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
        self.config = config
        self.rows = len(examples)
        stream = grain.MapDataset.source(examples).shuffle(seed=config.seed).repeat(None)
        stream = stream[config.process_index :: config.process_count]
        batches = stream.batch(config.batch_size // config.process_count, batch_fn=lambda rows: collate(list(rows)))
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


def in_order(
    examples: Sequence[Example], collate: Callable[[Sequence[Example], int], Collated], batch_size: int
) -> Iterator[Collated]:
    """All rows once, in order, for evaluation; the last batch is filled up with padding rows to keep one shape."""
    for start in range(0, len(examples), batch_size):
        yield collate(examples[start : start + batch_size], batch_size)
