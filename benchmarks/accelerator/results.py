"""What the items found, in one JSON that is written after every figure: a run that is cut off loses nothing.

{"items": {NAME: {"done", "seconds", "error"?, "environment", "figures": {FIGURE: {"value", "unit", ..}}}}}
"""

import contextlib
import json
import math
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FILE = "accelerator.json"


class Results:
    """The file of a folder, and one item of it that figures are added to.

    Args:
        folder: gets `accelerator.json`; figures of an earlier run that are there stay.
        item: whose figures are added.
        deadline: `time.time()` at which the run ends.
    """

    def __init__(self, folder: Path, item: str, deadline: float = math.inf):
        self.path, self.item, self.deadline = folder / FILE, item, deadline
        self.content = read(folder)
        own = self.content["items"].setdefault(item, {})
        self.own: dict[str, Any] = own
        own.setdefault("done", False)
        own.setdefault("figures", {})

    def has(self, *names: str) -> bool:
        """Whether all these figures are there already."""
        return all(name in self.own["figures"] for name in names)

    @property
    def left(self) -> float:
        """Seconds until the run ends."""
        return self.deadline - time.time()

    def add(self, name: str, value: float, unit: str, **more: Any) -> None:
        """A figure, written at once and shown. `more`: floor, all repeats, a note."""
        self.own["figures"][name] = {"value": float(value), "unit": unit, **more}
        self.save()
        floor = f" (floor {more['floor']:.4g})" if more.get("floor") else ""
        print(f"{self.item}: {name} {value:.5g} {unit}{floor}", flush=True)

    def save(self, **more: Any) -> None:
        """Writes the file, `more` beside the figures of the item."""
        self.own.update(more)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        partial = self.path.with_suffix(".partial")
        partial.write_text(json.dumps(self.content, indent=1) + "\n", encoding="utf-8")
        os.replace(partial, self.path)

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        """A part of the item that may fail by itself: what it raises is kept as `errors.NAME`, and shown."""
        self.own.get("errors", {}).pop(name, None)  # of an earlier call
        try:
            yield
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"[:2000]
            self.save(errors={**self.own.get("errors", {}), name: reason})
            print(f"{self.item}: {name} FAILED: {reason[:600]}", flush=True)


def read(folder: Path) -> dict[str, Any]:
    """What a folder holds so far.

    Raises:
        ValueError: the file is none of ours.
    """
    path = folder / FILE
    if not path.exists():
        return {"items": {}}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        content["items"].items()
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise ValueError(f"{path} is no result of this command ({error}); choose another --out.") from error
    return content
