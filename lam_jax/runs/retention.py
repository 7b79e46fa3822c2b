"""The checkpoints of one phase: the last ones and the best one are kept, a damaged one is passed over loudly."""

import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from jax.sharding import Mesh

from lam_jax.errors import DamagedCheckpointError
from lam_jax.parallel.multihost import barrier, from_first, is_first
from lam_jax.runs.checkpoint import BackgroundSave, begin_save, delete_checkpoint, remove_unfinished, restore_checkpoint
from lam_jax.runs.record import read_record

PREFIX = "step_"
logger = logging.getLogger("lam_jax")


class Restored(NamedTuple):
    """A restored checkpoint: its step, tree and metadata."""

    step: int
    tree: Any
    metadata: dict[str, Any]


class Checkpoints:
    """Numbered checkpoints `step_00000100` in a folder.

    The newest `keep` and the one with the highest score stay. Two are the least that survives damage to the newest.
    """

    def __init__(self, folder: Path, keep: int = 2):
        if keep < 1:
            raise ValueError(f"keep: found {keep}, expected at least 1.")
        self.folder = Path(folder)
        self.keep = keep
        self._saving: BackgroundSave | None = None
        if self.folder.is_dir() and is_first():
            remove_unfinished(self.folder)

    def path(self, step: int) -> Path:
        """Folder of the checkpoint of `step`."""
        return self.folder / f"{PREFIX}{step:08d}"

    def steps(self) -> list[int]:
        """Steps that have a checkpoint, oldest first."""
        names = (path.name.removeprefix(PREFIX) for path in self.folder.glob(f"{PREFIX}*"))
        return sorted(int(name) for name in names if name.isdigit())

    def best_step(self) -> int | None:
        """Step of the checkpoint with the highest score (the earliest of equals); None if none was scored."""
        scores = {}
        for step in self.steps():
            try:
                scores[step] = read_record(self.path(step))["metadata"]["score"]
            except DamagedCheckpointError:
                continue
        scored = {step: score for step, score in scores.items() if score is not None}
        return max(scored, key=scored.__getitem__, default=None)

    def begin_save(
        self, step: int, tree: Any, metadata: dict[str, Any] | None = None, score: float | None = None
    ) -> None:
        """Waits for the save before this one, then starts to save; returns when the arrays may change again.

        Raises:
            NoSpaceError: this one or the one before did not fit.
        """
        self.wait()
        self._saving = begin_save(self.path(step), tree, {"score": score, "user": metadata or {}})

    def wait(self) -> None:
        """Waits for a save under way; then deletes what is neither among the newest nor the best."""
        if self._saving is None:
            return
        saving, self._saving = self._saving, None
        saving.wait()
        if is_first():
            kept = {*self.steps()[-self.keep :], self.best_step()}
            for old in self.steps():
                if old not in kept:
                    delete_checkpoint(self.path(old))

    def save(self, step: int, tree: Any, metadata: dict[str, Any] | None = None, score: float | None = None) -> None:
        """Like `begin_save`, and waits."""
        self.begin_save(step, tree, metadata, score)
        self.wait()

    def restore(
        self, like: Any | Callable[[dict[str, Any]], Any], step: int | None = None, mesh: Mesh | None = None
    ) -> Restored | None:
        """Restores the newest sound checkpoint, or the one of `step`; None if the folder holds none.

        A damaged checkpoint is reported on the error log, renamed to `...damaged`, and the one before it is used.

        Args:
            like: see `restore_checkpoint`; or a function that makes it of the checkpoint's metadata.
            step: of one checkpoint; default: the newest.
            mesh: see `restore_checkpoint`.

        Raises:
            DamagedCheckpointError: all are damaged (or the one of `step` is).
            CheckpointMismatchError: a sound one holds other arrays than `like`.
        """
        reasons = []
        while True:
            # Process 0 decides, lest a file system that lags behind shows the others another list.
            newest = from_first(max(self.steps(), default=-1)) if step is None else step
            if newest < 0:
                break
            try:
                wanted = like
                if callable(like):
                    wanted = like(read_record(self.path(newest))["metadata"]["user"])
                tree, metadata = restore_checkpoint(self.path(newest), wanted, mesh)
            except DamagedCheckpointError as error:
                if step is not None:
                    raise
                reasons.append(str(error))
                logger.error("%s Falling back to the checkpoint before it.", error)
                barrier(f"damaged {newest}")
                if is_first():
                    set_aside(self.path(newest))
            else:
                return Restored(newest, tree, metadata["user"])
        if reasons:
            raise DamagedCheckpointError(
                "No usable checkpoint is left. " + " ".join(reasons) + " Delete the folder to start this phase again."
            )
        return None


def set_aside(path: Path) -> None:
    """Renames a damaged checkpoint to `<name>.damaged`, so that its name is free and it can be looked at."""
    target = path.with_name(f"{path.name}.damaged")
    if target.exists():
        shutil.rmtree(target)
    path.rename(target)
