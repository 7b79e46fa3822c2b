"""The checkpoints of one phase: the last ones and the best one are kept, a damaged one is passed over loudly."""

import logging
import shutil
from pathlib import Path
from typing import Any, NamedTuple

from lam_jax.train.checkpoint import read_record, remove_unfinished, restore_checkpoint, save_checkpoint
from lam_jax.train.errors import DamagedCheckpointError

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
        if self.folder.is_dir():
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

    def save(self, step: int, tree: Any, metadata: dict[str, Any] | None = None, score: float | None = None) -> None:
        """Saves, then deletes what is neither among the newest nor the best."""
        save_checkpoint(self.path(step), tree, {"score": score, "user": metadata or {}})
        kept = {*self.steps()[-self.keep :], self.best_step()}
        for old in self.steps():
            if old not in kept:
                shutil.rmtree(self.path(old))

    def restore(self, like: Any, step: int | None = None) -> Restored | None:
        """Restores the newest sound checkpoint, or the one of `step`; None if the folder holds none.

        A damaged checkpoint is reported on the error log, renamed to `...damaged`, and the one before it is used.

        Raises:
            DamagedCheckpointError: all are damaged (or the one of `step` is).
            CheckpointMismatchError: a sound one holds other arrays than `like`.
        """
        reasons = []
        for candidate in reversed(self.steps()) if step is None else [step]:
            try:
                tree, metadata = restore_checkpoint(self.path(candidate), like)
            except DamagedCheckpointError as error:
                if step is not None:
                    raise
                reasons.append(str(error))
                logger.error("%s Falling back to the checkpoint before it.", error)
                set_aside(self.path(candidate))
            else:
                return Restored(candidate, tree, metadata["user"])
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
