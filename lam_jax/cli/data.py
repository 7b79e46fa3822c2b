"""`lam-jax data check|inspect|build`."""

import contextlib
import dataclasses
import importlib
import json
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro

from lam_jax.cli.recipes import call_with, flags_of, recipe_function, shipped_recipes

PROGRAMS = {
    "check": "counts, lengths, pictures missing or broken, duplicate ids, splits; ends with code 1 if rows are bad",
    "inspect": "rows as the model sees them: text, masks, pictures, cuts",
    "build": "public data sets and files of other layouts made into rows",
}
USAGE = """usage: lam-jax data check RECIPE|FILE.. [flags]
       lam-jax data inspect RECIPE|FILE.. [flags]
       lam-jax data build .. [flags]
"""


@dataclasses.dataclass(frozen=True)
class Data:
    """Checks, shows and builds files of rows; `lam-jax data` lists how."""

    program: Annotated[str, tyro.conf.Positional]
    """check, inspect or build."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class FileFlags:
    """Plain files."""

    files: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RECIPE|FILE..")]
    """A recipe of `lam-jax train`, by its name or path/file.py, with its flags; or files of rows; or the raw folder of
    MMRole or of PCogAlignBench; or a folder of `lam-jax data build`."""
    image_root: Path | None = None
    """Folder that paths of pictures start from. Default: that of the file, or the raw folder,
    of MMRole `images` in it."""
    picture_folders: tuple[Path, ...] = ()
    """Further folders that pictures of files may lie in, absolute or behind links."""
    facts: tuple[str, ...] = ()
    """Other columns that rows of files may have."""
    model: str | None = None
    """Folder of the model whose tokenizer counts. Default: the small one that ships with the package."""
    image: tuple[int, int] | None = None
    """Height and width in pixels to which pictures are stretched. Default: 280 420; 288 416 with a Qwen3-VL; 84 112
    with the small model."""
    row_length: int | None = None
    """Most tokens of a training row. Default: 2048; 192 with the small model."""
    prompt_length: int | None = None
    """Most tokens of a prompt. Default: 1024; 128 with the small model."""

    def __post_init__(self):
        for name in ("row_length", "prompt_length"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"--{name.replace('_', '-')}: found {value}, expected at least 1.")

    def sources(self) -> list[Any]:
        """What is read."""
        from lam_jax.data.layouts import RowParser
        from lam_jax.pipeline.check import FileSettings, readable_files
        from lam_jax.recipe import Model
        from lam_jax.recipes.own import LENGTHS, SHIPPED_LENGTHS
        from lam_jax.recipes.settings import SHIPPED_MODEL, image_for

        small = self.model is None
        chat, prompt, _ = SHIPPED_LENGTHS if small else LENGTHS
        settings = FileSettings(
            Model(self.model or SHIPPED_MODEL),
            image_for(self.model or SHIPPED_MODEL, self.image),
            self.row_length or chat,
            self.prompt_length or prompt,
            None if self.image_root is None else str(self.image_root),
            RowParser(self.facts, tuple(map(str, self.picture_folders))),
        )
        return readable_files(self.files, settings)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CheckFlags:
    """The check."""

    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print one JSON object."""
    max_bad_share: float = 0.0
    """Of the rows that may be bad; above it the command ends with code 1."""
    bad_out: Path | None = None
    """File to write, a line for each bad row: source, file, index in the file, id, picture, reason, message."""
    workers: int | None = None
    """Processes that decode pictures; 0: none besides this one. Default: one a core, up to 8."""

    def __post_init__(self):
        if not 0 <= self.max_bad_share <= 1:
            raise ValueError(f"--max-bad-share: found {self.max_bad_share}, expected a share, 0 to 1.")
        if self.workers is not None and self.workers < 0:
            raise ValueError(f"--workers: found {self.workers}, expected a number that is not negative.")

    def run(self, sources: Sequence[Any]) -> int:
        """Checks and prints; 1 if too many rows are bad."""
        from lam_jax.cli.data_report import report_lines
        from lam_jax.data.check import check
        from lam_jax.formats.atomic import beside
        from lam_jax.pipeline.check import read_all

        workers = min(8, os.cpu_count() or 1) if self.workers is None else self.workers
        with tempfile.TemporaryDirectory() as folder, _progress() as advance:
            report = check(read_all(sources, Path(folder)), workers, advance)
        if self.bad_out is not None:
            self.bad_out.parent.mkdir(parents=True, exist_ok=True)
            new = beside(self.bad_out, "new")
            new.write_text("".join(json.dumps(row.as_json()) + "\n" for row in report.bad), encoding="utf-8")
            new.replace(self.bad_out)
        passes = report.passes(self.max_bad_share)
        if self.json:
            totals = {"rows": report.read, "bad_rows": len(report.bad), "bad_share": report.share}
            limits = {"max_bad_share": self.max_bad_share, "ok": passes}
            print(json.dumps({**totals, **limits, "sources": [source.as_json() for source in report.sources]}))
        else:
            for line in report_lines(report, self.max_bad_share):
                print(line)
        return 0 if passes else 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class InspectFlags:
    """The rows that are shown."""

    source: str | None = None
    """Source: paired, text_only, the name of a task, or a file. Default: each."""
    split: str | None = None
    """Split. Default: each."""
    first: int = 1
    """Rows of each split."""
    row: int | None = None
    """The row with this index in its file, instead of the first ones."""
    id: str | None = None
    """The row with this id, instead of the first ones."""

    def __post_init__(self):
        if self.first < 1:
            raise ValueError(f"--first: found {self.first}, expected at least 1.")

    def run(self, sources: Sequence[Any]) -> int:
        """Prints the rows; 1 if there is none."""
        from lam_jax.data.inspect import show_row
        from lam_jax.pipeline.check import read_all

        chosen = [source for source in sources if self.source in (None, source.name)]
        if not chosen:
            raise ValueError(f"--source: found {self.source!r}, expected one of {[s.name for s in sources]}.")
        shown = 0
        with tempfile.TemporaryDirectory() as folder:
            for found in read_all(chosen, Path(folder)):
                for error in found.errors:
                    print(f"{found.name}: {error}", file=sys.stderr)
                for part in (part for part in found.parts if self.split in (None, part.name)):
                    for example in self._of(part.examples):
                        for kind, collator in part.collators.items():
                            if kind == "prompt" or example.has_reference:
                                print(f"== {found.name}, split {part.name}, as a {kind}")
                                print("\n".join(show_row(example, collator)) + "\n")
                                shown += 1
                shown += self._refused(found)
        if not shown:
            refused = " Rows that are refused have no id here: ask for one by --row." if self.id is not None else ""
            print(f"No row like that.{refused} `lam-jax data check` lists sources and splits.", file=sys.stderr)
        return 0 if shown else 1

    def _of(self, examples: Sequence[Any]) -> Sequence[Any]:
        if self.row is None and self.id is None:
            return examples[: self.first]
        return [e for e in examples if self.row in (None, e.where.row) and self.id in (None, e.id)]

    def _refused(self, found: Any) -> int:
        """Prints a row that was asked for and that the reader refused; how many that were."""
        rows = [d for d in found.tally.dropped.values() if self.row is not None and d.where.row == self.row]
        for dropped in rows:
            print(f"== {found.name}\nBAD ({dropped.reason}): {dropped.text}\n")
        return len(rows)


@dataclasses.dataclass(frozen=True)
class DataCommand:
    """What is to be done with which sources; None: the usage is shown."""

    flags: CheckFlags | InspectFlags | None = None
    sources: Any = None
    code: int = 0

    def run(self) -> int:
        """Does it; returns the exit code."""
        if self.flags is None:
            print(USAGE)
            for name, text in PROGRAMS.items():
                print(f"  {name:8} {text}")
            return self.code
        try:
            code = self.flags.run(self.sources())
            sys.stdout.flush()
            return code
        except BrokenPipeError:  # `| head` has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0


def data_command(args: Sequence[str]) -> Any:
    """What `lam-jax data` is to do with the arguments after it.

    Raises:
        ValueError: no such program or recipe, or a bad value.
        SystemExit: bad flags, or --help.
    """
    if not args or args[0] in ("-h", "--help"):
        return DataCommand(code=0 if args else 2)
    program, rest = args[0], list(args[1:])
    if program == "build":
        build = importlib.import_module("lam_jax.cli.data_build").Build
        return tyro.cli(build, prog="lam-jax data build", args=rest, config=(tyro.conf.OmitArgPrefixes,))
    if program not in PROGRAMS:
        raise ValueError(f"lam-jax data {program}: expected one of {sorted(PROGRAMS)}.")
    kind = CheckFlags if program == "check" else InspectFlags
    name = rest[0] if rest and not rest[0].startswith("-") else ""
    if name.endswith(".py") or (name and not Path(name).exists() and name in shipped_recipes()):
        function = recipe_function(name)
        recipe_flags = flags_of(function, [field.name for field in dataclasses.fields(kind)])
        chosen = _parse(program, kind, recipe_flags, rest[1:], name)

        def of_recipe() -> list[Any]:
            from lam_jax.pipeline.check import readable_of

            return readable_of(call_with(function, chosen.what))

        return DataCommand(chosen.how, of_recipe)
    chosen = _parse(program, kind, FileFlags, rest)
    if missing := [path for path in chosen.what.files if not path.exists()]:
        raise ValueError(
            f"{missing[0]}: there is no such file, and no recipe of that name: {sorted(shipped_recipes())}."
        )
    if not chosen.what.files:
        raise ValueError(f"lam-jax data {program}: found no file, expected files of rows, or a recipe and its flags.")
    return DataCommand(chosen.how, chosen.what.sources)


def _parse(program: str, kind: type, what: type, args: list[str], recipe: str = "") -> Any:
    both = dataclasses.make_dataclass(
        "Flags", [("what", what), ("how", kind)], namespace={"__doc__": PROGRAMS[program]}
    )
    prog = f"lam-jax data {program} {recipe}".rstrip()
    return tyro.cli(both, prog=prog, args=args, config=(tyro.conf.OmitArgPrefixes,))


@contextlib.contextmanager
def _progress() -> Iterator[Any]:
    """Counts rows on the terminal, where standard error is one."""
    if not sys.stderr.isatty():
        yield lambda done: None
        return
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress, SpinnerColumn, TextColumn

    columns = (SpinnerColumn(), TextColumn("rows"), MofNCompleteColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("rows", total=None)
        yield lambda done: progress.advance(task, done)
