"""Safetensors files: a validated header, slices read on demand, and streamed writing.

The `safetensors` package reads slices too, but does not expose header bytes (needed to give a checkpoint back byte for
byte) and cannot write a file that does not fit in memory. The format is 8 bytes of header size, a JSON header, then the
tensors: https://github.com/huggingface/safetensors#format
"""

import dataclasses
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

DTYPES: dict[str, np.dtype] = {
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(jnp.bfloat16),
}
# Those of buffers and of quantised weights: kept and given back bit by bit, never a weight of ours.
OTHER_DTYPES: dict[str, np.dtype] = {
    "F64": np.dtype(np.float64),
    "F8_E4M3": np.dtype(jnp.float8_e4m3fn),
    "F8_E5M2": np.dtype(jnp.float8_e5m2),
    "BOOL": np.dtype(np.bool_),
    **{f"{kind.upper()}{8 * size}": np.dtype(f"{kind}{size}") for kind in "iu" for size in (1, 2, 4, 8)},
}
_KNOWN = DTYPES | OTHER_DTYPES
CODES = {dtype: code for code, dtype in _KNOWN.items()}
CHUNK_BYTES = 32 * 2**20  # of one streamed read or write
_PICKLE_STARTS = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
PICKLE_ADVICE = (
    "Pickle files can run any code when opened, so they are refused. Where you trust the file, re-save it with torch: "
    "safetensors.torch.save_file({k: v.contiguous().clone() for k, v in torch.load(FILE, weights_only=True).items()}, "
    "'model.safetensors')."
)


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the message names file, key, what was found and what was expected."""


@dataclasses.dataclass(frozen=True)
class TensorInfo:
    """Where a tensor lies in its file: shape, dtype and first byte."""

    shape: tuple[int, ...]
    dtype: np.dtype
    offset: int

    @property
    def nbytes(self) -> int:
        """Size in the file."""
        return math.prod(self.shape) * self.dtype.itemsize


class SafetensorsFile:
    """An opened (that is: header read and checked) safetensors file.

    Attributes:
        path: of the file.
        header: the header as text, padding included.
        tensors: name -> TensorInfo, in the order of their data.
        metadata: the header's string dictionary.
    """

    def __init__(self, path: str | Path):
        """Reads and checks the header.

        Raises:
            CheckpointError: pickle, truncated file, malformed header, duplicate key, unsupported dtype.
        """
        self.path = Path(path)
        size = self.path.stat().st_size
        with self.path.open("rb") as file:
            start = file.read(8)
            length = int.from_bytes(start, "little")
            if len(start) < 8 or 8 + length > size:
                if start.startswith(_PICKLE_STARTS):
                    raise CheckpointError(f"{self.path} is a pickle (or zip) file, not safetensors. {PICKLE_ADVICE}")
                raise CheckpointError(
                    f"{self.path}: truncated or not a safetensors file: the header should end at byte {8 + length}, "
                    f"but the file has {size} bytes. Fetch the file again."
                )
            raw = file.read(length)
        try:
            self.header = raw.decode("utf-8")
            entries = json.loads(self.header, object_pairs_hook=self._no_duplicates)
            self.metadata: dict[str, str] = entries.pop("__metadata__", {})
            found = {name: self._info(name, entry, 8 + length) for name, entry in entries.items()}
        except CheckpointError:
            raise
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise CheckpointError(
                f"{self.path}: header is not that of a safetensors file ({error}). Fetch the file again."
            ) from error
        self.tensors = dict(sorted(found.items(), key=lambda item: (item[1].offset, item[1].nbytes)))
        self._check_layout(8 + length, size)

    def _no_duplicates(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            names = [name for name, _ in pairs]
            twice = sorted({name for name in names if names.count(name) > 1})
            raise CheckpointError(f"{self.path}: duplicate keys {twice} in the header, expected each once.")
        return found

    def _info(self, name: str, entry: dict[str, Any], base: int) -> TensorInfo:
        code, shape, (begin, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
        if code not in _KNOWN:
            raise CheckpointError(
                f"{self.path}: {name} has dtype {code}, which is not known, expected one of {', '.join(DTYPES)}. Take "
                "the model's release in one of those."
            )
        info = TensorInfo(shape, _KNOWN[code], base + begin)
        if info.nbytes != end - begin or begin < 0:
            raise CheckpointError(
                f"{self.path}: {name} of shape {shape} and dtype {code} needs {info.nbytes} bytes, but its entry "
                f"spans {begin} to {end}. The file is damaged: fetch it again."
            )
        return info

    def _check_layout(self, base: int, size: int) -> None:
        at = base
        for name, info in self.tensors.items():
            if info.offset != at:
                raise CheckpointError(
                    f"{self.path}: {name} starts at byte {info.offset}, expected {at} (the data must have no gaps and "
                    "no overlaps). The file is damaged: fetch it again."
                )
            at += info.nbytes
        if at != size:
            raise CheckpointError(
                f"{self.path}: {'truncated' if size < at else 'trailing data'}: the header describes {at} bytes, but "
                f"the file has {size}. Fetch the file again."
            )

    def read(self, name: str, index: tuple[slice, ...] = ()) -> np.ndarray:
        """A copy of a tensor's slice. Only the pages of the slice are touched, and they are released at once."""
        info = self.tensors[name]
        # Bits, not numbers: np.memmap knows no bfloat16, and a copy of bits keeps every NaN as it is.
        bits = np.dtype(f"u{info.dtype.itemsize}")
        if all(part == slice(None) or part.indices(n) == (0, n, 1) for part, n in zip(index[1:], info.shape[1:])):
            # Whole rows are one run of bytes: read them without mapped pages, which would count twice.
            start, stop, _ = (*index, slice(None))[0].indices(info.shape[0]) if info.shape else (0, 1, 1)
            shape = (max(0, stop - start), *info.shape[1:]) if info.shape else ()
            skip = start * math.prod(info.shape[1:]) * bits.itemsize
            raw = np.fromfile(self.path, bits, math.prod(shape), offset=info.offset + skip)
            return raw.reshape(shape).view(info.dtype)
        view = np.memmap(self.path, bits, "r", info.offset, info.shape)
        return np.array(view[index]).view(info.dtype)


def header_text(tensors: Mapping[str, tuple[np.dtype, tuple[int, ...]]], metadata: Mapping[str, str]) -> str:
    """The header of a new file that holds `tensors` (name -> dtype, shape) in that order, padded to 8 bytes."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    at = 0
    for name, (dtype, shape) in tensors.items():
        size = math.prod(shape) * np.dtype(dtype).itemsize
        header[name] = {"dtype": CODES[np.dtype(dtype)], "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header, separators=(",", ":"))
    return text + " " * (-len(text.encode()) % 8)


def write(path: Path, header: str, chunks: Callable[[str], Iterable[np.ndarray]]) -> None:
    """Writes a file with `header`, each tensor as the concatenation of `chunks(name)`, and flushes it to disk.

    Raises:
        CheckpointError: the chunks of a tensor have another size than the header says.
    """
    raw = header.encode()
    entries = {name: entry for name, entry in json.loads(header).items() if name != "__metadata__"}
    with path.open("wb") as file:
        file.write(len(raw).to_bytes(8, "little"))
        file.write(raw)
        for name, entry in sorted(entries.items(), key=lambda item: tuple(item[1]["data_offsets"])):
            begin, end = entry["data_offsets"]
            if (written := sum(_write_array(file, chunk) for chunk in chunks(name))) != end - begin:
                raise CheckpointError(f"{path}: {name} got {written} bytes, but its header entry has {end - begin}.")
        file.flush()
        os.fsync(file.fileno())


def _write_array(file: Any, array: np.ndarray) -> int:
    array = np.ascontiguousarray(array)
    file.write(array.reshape(-1).view(np.uint8).data)
    return array.nbytes


def row_chunks(rows: int, row_bytes: int) -> Iterator[slice]:
    """Slices of at most CHUNK_BYTES (at least one row) that cover `rows`."""
    step = max(1, CHUNK_BYTES // max(1, row_bytes))
    for start in range(0, rows, step):
        yield slice(start, min(start + step, rows))
