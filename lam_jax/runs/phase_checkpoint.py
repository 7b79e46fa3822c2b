"""Checkpoints inside a phase: a run that is killed or preempted goes on from the last one, bit for bit.

A checkpoint holds the state (weights, optimiser, step, random key), the best score so far with its weights where they
are kept, where the data stood, and, between two updates of one rollout, that rollout.
"""

import contextlib
import dataclasses
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import jax
from jax.sharding import Mesh, NamedSharding

from lam_jax.parallel.parked import OnHost
from lam_jax.runs.retention import Checkpoints
from lam_jax.runs.stop import StopRequest

LOOKED_AT = 64  # batches, for one that holds what a saved rollout was made of
TrainState = Any  # a pytree with `trainable`, such as `lam_jax.train.state.TrainState`


@runtime_checkable
class Positioned(Protocol):
    """Data whose position can be saved, such as `lam_jax.data.loader.Loader`."""

    def get_state(self) -> dict[str, Any]:
        """The position as JSON values."""
        ...

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes to a position."""
        ...


@runtime_checkable
class Work(Protocol):
    """A step of `fit` that makes several optimiser updates of one batch, for example of one rollout."""

    updates: int

    def prepare(self, state: TrainState, batch: Any) -> tuple[Any, dict[str, Any]]:
        """What the updates need, as a pytree of arrays, and metrics."""
        ...

    def buffer_like(self, state: TrainState, batch: Any) -> Any:
        """Shape structs of what `prepare` gives for a batch like this one."""
        ...

    def apply(self, state: TrainState, buffer: Any, index: int) -> tuple[TrainState, dict[str, Any]]:
        """Update `index` of `updates`."""
        ...

    def finish(self, state: TrainState, buffer: Any, metrics: dict[str, Any]) -> dict[str, Any]:
        """The metrics of the whole step."""
        ...


@runtime_checkable
class Ahead(Protocol):
    """A `Work` that begins the next step before this one's updates; its data have a `peek`."""

    def pending(self) -> Any:
        """What is begun of the next step, as a pytree of arrays of the shape of `buffer_like`; None: nothing."""
        ...

    def restore(self, pending: Any, batch: Any, number: int) -> None:
        """Goes on with what was begun for step `number`, whose batch is given."""
        ...


@dataclasses.dataclass(frozen=True)
class Best:
    """The highest score so far, where it came from, and the weights that had it; None where they are not kept.

    They wait on the host: on the devices they would take as much as those that train.
    """

    step: int
    score: float
    kept: OnHost[Any] | None = None

    @property
    def trainable(self) -> Any:
        """The weights, each time anew on the devices; None where they are not kept."""
        return None if self.kept is None else self.kept.restore()


@dataclasses.dataclass(frozen=True)
class PhaseCheckpoint:
    """Where a phase stands.

    Attributes:
        state: after the last update.
        number: steps of `fit` that are complete.
        updates: of the next step that are done already.
        best: among the evaluations so far.
        buffer: what the other updates of that step need; None at updates = 0.
        metrics: of that step so far.
        pending: what was begun already for the step after that one, see `Ahead`.
        owes_evaluation: the evaluation after `number` steps could not be made, and is to be made first.
    """

    state: TrainState
    number: int
    updates: int = 0
    best: Best | None = None
    buffer: Any = None
    metrics: dict[str, float] = dataclasses.field(default_factory=dict)
    owes_evaluation: bool = False
    pending: Any = None

    @property
    def begun(self) -> int:
        """Steps whose batch was prepared: the complete ones, and one that stands between two of its updates."""
        return self.number + (self.updates > 0)


class PhaseSaver:
    """Saves a phase every `every` optimiser updates and when the run is asked to stop.

    Args:
        folder: of the phase's checkpoints.
        every: updates between two checkpoints; 0: only when asked to stop.
        keep: how many stay; two survive damage to the newest.
        stop: the run's requests.
    """

    def __init__(self, folder: Path, every: int = 0, keep: int = 2, stop: StopRequest | None = None):
        if every < 0:
            raise ValueError(f"every: found {every}, expected a number of updates, or 0 for no regular checkpoints.")
        self.every = every
        self.stop = stop or StopRequest()
        self.checkpoints = Checkpoints(folder, keep)
        self._phase = ""
        self._updates_of_step = 1

    def restore(self, phase: str, state: TrainState, work: Work, data: Any) -> PhaseCheckpoint | None:
        """The newest sound checkpoint on the shardings of `state`, with `data` put to its position; None without one.

        Raises:
            TypeError: the position of `data` cannot be saved.
            DamagedCheckpointError, CheckpointMismatchError: see `Checkpoints.restore`.
        """
        if not isinstance(data, Positioned):
            raise TypeError(
                f"Phase {phase}: found data of type {type(data).__name__}, expected get_state and set_state, as a "
                "Loader has: a phase with checkpoints has to go on at the batch where it stopped."
            )
        self._phase, self._updates_of_step = phase, work.updates
        start = data.get_state()

        def like(saved: dict[str, Any]) -> dict[str, Any]:
            buffer = None
            if saved["updates"]:
                data.set_state(start)
                buffer = _like(work, state, data, saved.get("buffer"))
            best = state.trainable if saved["best_kept"] else None
            tree = {"state": state, "best": best, "buffer": buffer}
            if saved.get("pending"):
                data.set_state(start)
                tree["pending"] = _like(work, state, data, saved["pending"])
            return tree

        restored = self.checkpoints.restore(like, mesh=_mesh_of(state))
        if restored is None:
            return None
        tree, saved = restored.tree, restored.metadata
        data.set_state(saved["data"])
        kept = OnHost(tree["best"]) if saved["best_kept"] else None
        best = Best(saved["best"][0], saved["best"][1], kept) if saved["best"] else None
        owed = saved.get("owes_evaluation", False)
        return PhaseCheckpoint(
            *(tree["state"], saved["number"], saved["updates"], best, tree["buffer"], saved["metrics"], owed),
            pending=tree.get("pending"),
        )

    def visit(self, checkpoint: PhaseCheckpoint, data: Any, before: Callable[[], None]) -> None:
        """Saves if that is due or the run is asked to stop; called after every update but the phase's last.

        Args:
            checkpoint: where the phase stands.
            data: its position is saved.
            before: called before a checkpoint; whatever has to be on disk when it is.

        Raises:
            PreemptedError: the run is asked to stop (InterruptedRunError: by Ctrl-C); the checkpoint is on disk.
            NoSpaceError: the disk is full.
        """
        total = checkpoint.number * self._updates_of_step + checkpoint.updates
        stopping = self.stop.visit()
        if stopping or (self.every and total % self.every == 0):
            before()
            self._save(total, checkpoint, data)
        if stopping:
            self.checkpoints.wait()
            raise self.stop.error(
                f"in phase {self._phase} after update {total}, saved in {self.checkpoints.path(total)}. Run the same "
                "command again: it goes on from there."
            )

    def save(self, checkpoint: PhaseCheckpoint, data: Any) -> None:
        """Saves and waits until it is on disk; nothing where that place is saved already.

        Raises:
            NoSpaceError: the disk is full.
        """
        total = checkpoint.number * self._updates_of_step + checkpoint.updates
        self.checkpoints.wait()
        if not self.checkpoints.path(total).exists():
            self._save(total, checkpoint, data)
            self.checkpoints.wait()

    @contextlib.contextmanager
    def open(self) -> Iterator[None]:
        """Inside, a request to stop waits for the next visit; at the end a save under way is waited for."""
        self.stop.defer(True)
        try:
            yield
        finally:
            self.stop.defer(False)
            self.checkpoints.wait()

    def _save(self, total: int, checkpoint: PhaseCheckpoint, data: Positioned) -> None:
        best = checkpoint.best
        metadata = {
            "number": checkpoint.number,
            "updates": checkpoint.updates,
            "best": [best.step, best.score] if best else None,
            "best_kept": best is not None and best.kept is not None,
            "metrics": {name: float(value) for name, value in checkpoint.metrics.items()},
            "data": data.get_state(),
            "owes_evaluation": checkpoint.owes_evaluation,
            "buffer": _shapes(checkpoint.buffer),
            "pending": _shapes(checkpoint.pending),
        }
        tree = {"state": checkpoint.state, "best": best.trainable if best else None, "buffer": checkpoint.buffer}
        if checkpoint.pending is not None:
            tree["pending"] = checkpoint.pending
        self.checkpoints.begin_save(total, tree, metadata)


def _shapes(tree: Any) -> list[list[int]]:
    return [list(leaf.shape) for leaf in jax.tree.leaves(tree)]


def _like(work: Work, state: TrainState, data: Any, shapes: list[list[int]] | None) -> Any:
    """Shape structs of a saved buffer; batches of another bucket, or without pictures, give buffers of other shapes.

    Args:
        work, state: of the phase.
        data: its batches, at any position.
        shapes: of the saved arrays; None: a checkpoint of before they were kept.
    """
    for batch in itertools.islice(iter(data), LOOKED_AT):
        leaves, structure = jax.tree.flatten(work.buffer_like(state, batch))
        if shapes is None:
            return structure.unflatten(leaves)
        if len(leaves) == len(shapes):
            return structure.unflatten([leaf.update(shape=tuple(s)) for leaf, s in zip(leaves, shapes)])
    raise ValueError(
        f"The checkpoint's rollout has {len(shapes or ())} arrays, which none of {LOOKED_AT} batches gives."
    )


def _mesh_of(state: TrainState) -> Mesh | None:
    shardings = (getattr(leaf, "sharding", None) for leaf in jax.tree.leaves(state.trainable))
    meshes = (sharding.mesh for sharding in shardings if isinstance(sharding, NamedSharding))
    return next((mesh for mesh in meshes if isinstance(mesh, Mesh)), None)
