"""The check at the start of a run that all its processes run the same thing."""

import hashlib
import importlib.metadata
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

import lam_jax
from lam_jax.errors import ProcessesDifferError
from lam_jax.nn.weight import path_name
from lam_jax.parallel.checksum import shard_hashes
from lam_jax.parallel.multihost import gather

LONGEST = 128  # bytes of a value that are compared; longer ones are hashed


def code_hash() -> str:
    """SHA-256 of the package's own source files: the commit, and whatever was changed since."""
    root = Path(lam_jax.__file__).parent
    digest = hashlib.sha256()
    for file in sorted(root.rglob("*.py")):
        digest.update(file.relative_to(root).as_posix().encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()


def versions() -> str:
    """What the numbers depend on besides our own code."""
    return f"jax {jax.__version__}, jaxlib {importlib.metadata.version('jaxlib')}, {jax.devices()[0].device_kind}"


def _gather_texts(texts: Sequence[str]) -> list[list[str]]:
    """The texts of every process, [processes][texts]."""
    encoded = [text.encode() for text in texts]
    encoded = [e if len(e) <= LONGEST else hashlib.sha256(e).hexdigest().encode() for e in encoded]
    table = np.zeros((len(encoded), LONGEST), np.uint8)
    for row, text in zip(table, encoded):
        row[: len(text)] = np.frombuffer(text, np.uint8)
    return [[bytes(row).rstrip(b"\0").decode() for row in rows] for rows in gather(table)]


def require_consistent(facts: Mapping[str, str]) -> None:
    """Compares what each process says about itself with what process 0 says; every process calls it.

    Args:
        facts: name -> value, the same names on every process.

    Raises:
        ProcessesDifferError: on every process, naming each process that differs and in what.
    """
    names = list(facts)
    found = _gather_texts([socket.gethostname(), *facts.values()])
    first = found[0][1:]
    problems = [
        f"process {index} on {host} differs from process 0 in {name}: found {value}, expected {expected}"
        for index, (host, *values) in enumerate(found)
        for name, value, expected in zip(names, values, first)
        if value != expected
    ]
    if problems:
        more = f"; and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise ProcessesDifferError(
            f"The {len(found)} processes of this run are not alike: {'; '.join(problems[:5])}{more}. Install the same "
            "code, use the same flags and copy the same data to every host, then start all of them again."
        )


def require_consistent_weights(tree: Any) -> None:
    """Compares the copies of each shard that several processes hold; every process calls it.

    Raises:
        ProcessesDifferError: naming the process and the first weight.
    """
    if jax.process_count() == 1:
        return
    names = [path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)]
    hashes = [shard_hashes(leaf) for leaf in jax.tree.leaves(tree)]
    rows = [(n, start, value >> 32, value & 0xFFFFFFFF) for n, own in enumerate(hashes) for start, value in own.items()]
    longest = int(gather(np.asarray(len(rows), np.int32)).max())
    table = np.full((longest, 4), 0xFFFFFFFF, np.uint32)
    table[: len(rows)] = np.array(rows, np.uint32).reshape(-1, 4)
    known: dict[tuple[int, int], tuple[int, tuple[int, int]]] = {}
    for process, entries in enumerate(gather(table)):
        for number, start, high, low in entries.tolist():
            if number == 0xFFFFFFFF:
                continue
            owner, value = known.setdefault((number, start), (process, (high, low)))
            if value != (high, low):
                raise ProcessesDifferError(
                    f"Process {process} differs from process {owner} in the weight {names[number]}. They loaded "
                    "different checkpoint files or drew from different seeds: copy the same files to every host."
                )
