"""Whether report.html shows the run as it is now: the page says of which files it was made."""

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

from lam_jax.report.evaluations import evaluation_files

PAGE = "report.html"
MARK = "lam_jax-made-of"  # name of the page's meta element with the hash
HEAD = 4096  # bytes in which it stands


def sources_hash(run_dir: Path) -> str:
    """SHA-256 of all that a report is made of: results, metrics, pictures, and the code and templates of the report."""
    digest = hashlib.sha256()
    for name, path in _sources(run_dir):
        digest.update(f"{name}\0".encode())
        if path.is_file():
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def _sources(run_dir: Path) -> Iterator[tuple[str, Path]]:
    yield from ((name, run_dir / name) for name in ("results.json", "metrics.jsonl"))
    yield from ((path.relative_to(run_dir).as_posix(), path) for path in evaluation_files(run_dir))
    for folder, pattern in ((run_dir / "samples", "*.png"), (Path(__file__).parent, "**/*.*[yls]")):
        yield from ((path.relative_to(folder).as_posix(), path) for path in sorted(folder.glob(pattern)))


def is_current(run_dir: Path) -> bool:
    """Whether the page is there and was made of the files that are there."""
    try:
        with (run_dir / PAGE).open("rb") as file:
            head = file.read(HEAD).decode(errors="replace")
    except FileNotFoundError:
        return False
    found = re.search(rf'name="{MARK}" content="([0-9a-f]*)"', head)
    return found is not None and found[1] == sources_hash(run_dir)


def refresh_report(run_dir: Path) -> Path:
    """The report's path; the report is written where it is missing or shows something else than the run's files.

    Raises:
        RunFilesError: see `write_report`.
    """
    if not is_current(run_dir):
        from lam_jax.report.report import write_report  # here, because matplotlib takes a second to import

        return write_report(run_dir)
    return run_dir / PAGE
