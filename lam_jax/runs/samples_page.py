"""`samples.html`: the newest sample answers of a run as one page that needs no other file and loads no script."""

import base64
import dataclasses
import io
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lam_jax.runs.disk import is_no_space, no_space
from lam_jax.runs.jsonl import Record

STEPS = 12  # shown at most
LARGEST = 4 << 20  # bytes of a page; fewer steps are shown where they would take more
PICTURE = 240  # pixels of the longer side
LONGEST = 4000  # characters of a text that are shown
CODES = 512  # codes of an answer that are shown


class Page:
    """The newest steps of a run, newest first.

    Args:
        folder: of the run; gets `samples.html`.
    """

    def __init__(self, folder: Path):
        self.folder = Path(folder)
        self._steps: list[_Step] = []
        self._total = 0

    def reset(self, records: Iterable[Record]) -> None:
        """Shows these records from now on, the newest last."""
        self._steps, self._total = [], 0
        self.add(records)

    def add(self, records: Iterable[Record]) -> None:
        """Further records, of later steps."""
        for record in records:
            name = record["phase"], record["step"]
            if not self._steps or self._steps[-1].name != name:
                self._steps.append(_Step(name))
                self._total += 1
                del self._steps[:-STEPS]
            self._steps[-1].records.append(record)
            self._steps[-1].section = ""

    def write(self) -> None:
        """Writes the page beside the old one and puts it in its place.

        Raises:
            NoSpaceError: the disk is full; the old page stays.
        """
        target = self.folder / "samples.html"
        new = target.with_suffix(".html.new")
        try:
            new.write_text(self._text(), encoding="utf-8")
            new.replace(target)
        except OSError as error:
            new.unlink(missing_ok=True)
            if is_no_space(error):
                raise no_space(target, str(error)) from error
            raise

    def _text(self) -> str:
        environment = _environment()
        shown, size = [], 0
        for step in reversed(self._steps):
            step.section = step.section or _section(environment, step, self.folder)
            size += len(step.section.encode())
            if shown and size > LARGEST:
                break
            shown.append(step.section)
        written = time.strftime("%Y-%m-%d %H:%M:%S %Z")
        return environment.get_template("samples.html").render(steps=shown, total=self._total, written=written)


@dataclasses.dataclass
class _Step:
    """A step, and its part of the page once that is made."""

    name: tuple[str, int]
    records: list[Record] = dataclasses.field(default_factory=list)
    section: str = ""


def _environment() -> Any:
    from jinja2 import Environment, PackageLoader, StrictUndefined  # here: training alone does without it

    environment = Environment(
        loader=PackageLoader("lam_jax.runs", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(cut=_cut, number=_number)
    return environment


def _section(environment: Any, step: _Step, folder: Path) -> str:
    from markupsafe import Markup

    rewards = [a["reward"] for record in step.records for a in record["answers"] if a["reward"] is not None]
    rows = [record | {"pictures": [(n, _small(folder, n)) for n in record["pictures"]]} for record in step.records]
    text = environment.get_template("samples_step.html").render(
        phase=step.name[0],
        step=step.name[1],
        steps=step.records[0]["steps"],
        time=time.strftime("%H:%M:%S", time.localtime(step.records[0]["time"])),
        mean=sum(rewards) / len(rewards) if rewards else None,
        rows=rows,
        most_codes=CODES,
    )
    return Markup(text)


def _small(folder: Path, name: str) -> str | None:
    """A picture of the folder as a data address, made small; None where it cannot be read."""
    from PIL import Image, ImageOps

    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()):  # a folder from elsewhere must not make the page show other files
        return None
    try:
        with Image.open(path) as opened:
            image = ImageOps.exif_transpose(opened)
            image = image.convert("RGBA" if image.has_transparency_data else "RGB")
            image.thumbnail((PICTURE, PICTURE))
    except (
        OSError,
        SyntaxError,
        ValueError,
        Image.DecompressionBombError,
    ):  # Pillow's ways to say that it cannot be decoded
        return None
    buffer = io.BytesIO()
    # A drawing or a chart has few colours, which JPEG would smear; a photograph would be large as PNG.
    if image.mode == "RGBA" or image.getcolors(4096) is not None:
        kind = "png"
        image.save(buffer, "PNG", optimize=True)
    else:
        kind = "jpeg"
        image.save(buffer, "JPEG", quality=80)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def _cut(text: str) -> str:
    if len(text) <= LONGEST:
        return text
    return f"{text[:LONGEST]} … ({len(text) - LONGEST:,} more characters in samples.jsonl)"


def _number(value: float | None, digits: int = 3) -> str:
    return "–" if value is None else f"{value:.{digits}f}".replace("-", "−")
