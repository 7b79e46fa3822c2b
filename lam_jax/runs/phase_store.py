"""Complete phases that several runs share: trained by the first that comes to them, taken over by the others.

    store = PhaseStore(Path("runs/grid/phases"), key=lambda phase: ...)
    run.share(store)

A phase lies in the store under its key, a hash of all that its result depends on (`lam_jax.pipeline.shares`). A run
that takes one links its files into its own folder and then restores it as its own: checksums are verified.
"""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from lam_jax.runs.checkpoint import TEMPORARY

SHARED = "shared.json"  # in a run's folder: phases that were taken from a store, with their keys


class PhaseStore:
    """A folder of phases by key; used by the first process alone.

    Args:
        folder: of the store; on the disk of the runs' folders, files are linked, else copied.
        key: phase's name -> its key, asked when the phases before it are complete; None: it is not shared.
    """

    def __init__(self, folder: str | Path, key: Callable[[str], str | None]):
        self.folder = Path(folder).absolute()
        self._key = key

    def take(self, path: Path) -> None:
        """Puts a phase where a run looks for it, if the store has it and the run does not."""
        if not path.exists() and (key := self._key(path.name)) is not None and (self.folder / key).is_dir():
            _note(
                path, self.noted(key)
            )  # first: a phase that is there and not noted would count as trained by this run
            _link(self.folder / key, path)

    def keep(self, path: Path) -> None:
        """Adds a complete phase of a run, unless the store has it."""
        key = self._key(path.name)
        if key is not None and not (self.folder / key).exists():
            _link(path, self.folder / key)

    def discard(self, path: Path) -> None:
        """Forgets a phase if it was taken: what the run restored of it was damaged."""
        if (key := self.taken(path)) is not None:
            shutil.rmtree(self.folder / key, ignore_errors=True)
            self.forget(path)

    def noted(self, key: str) -> str:
        """What a run notes of a phase that it took."""
        return key

    @staticmethod
    def taken(path: Path) -> str | None:
        """What a run noted of a phase that it took; None: it trained it."""
        return shared_phases(path.parent.parent).get(path.name)

    @staticmethod
    def forget(path: Path) -> None:
        """From now on a phase counts as trained by the run."""
        _note(path, None)


def shared_phases(run: Path) -> dict[str, str]:
    """Phases of a run's folder that another run had trained, with their keys."""
    try:
        return json.loads((run / SHARED).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}


def _note(path: Path, key: str | None) -> None:
    file = path.parent.parent / SHARED
    found = shared_phases(file.parent)
    found.pop(path.name, None)
    if key is not None:
        found[path.name] = key
    new = file.with_name(f"{SHARED}.new")
    new.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    new.replace(file)


def _link(source: Path, target: Path) -> None:
    """The folder again as `target`, whole or not at all."""
    target.parent.mkdir(parents=True, exist_ok=True)
    # The ending by which a run knows what an interrupted save left.
    partial = target.with_name(f"{target.name}{TEMPORARY}-{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        shutil.copytree(source, partial, copy_function=_link_file)
        partial.rename(target)
    except OSError:
        shutil.rmtree(partial, ignore_errors=True)
        if not target.is_dir():  # else another run was quicker
            raise


def _link_file(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another disk, or one without links
        shutil.copy2(source, target)
