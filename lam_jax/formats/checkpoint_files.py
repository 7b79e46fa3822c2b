"""The tensors of a checkpoint, whichever files hold them: one safetensors file, a folder of shards, or an .npz file."""

import json
import re
from collections.abc import Iterable
from pathlib import Path
from zipfile import ZIP_STORED, BadZipFile, ZipFile

import numpy as np

from lam_jax.formats.safetensors_io import DTYPES, PICKLE_ADVICE, CheckpointError, SafetensorsFile, TensorInfo

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
ADAPTERS = ("adapter_model.safetensors", "adapter_model.bin", "adapter_config.json")
# What an index may name and no shard hold, or the other way round: the tied head, and buffers that the config gives.
_OPTIONAL = re.compile(r"(^|\.)lm_head\.weight$|inv_freq$|(^|\.)position_ids$")
PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")


class SafetensorsFolder:
    """The safetensors shards of a folder (or one file), their headers checked against each other and the index."""

    def __init__(self, path: str | Path):
        """Opens all shards.

        Raises:
            FileNotFoundError: nothing there.
            CheckpointError: pickles only, missing or stray shard, a key in two shards, index and shards disagree.
        """
        self.path = Path(path)
        self.shards = [SafetensorsFile(shard) for shard in _shards(self.path)]
        self.tensors: dict[str, TensorInfo] = {}
        self._home: dict[str, SafetensorsFile] = {}
        for shard in self.shards:
            for name, info in shard.tensors.items():
                if name in self._home:
                    raise CheckpointError(
                        f"{shard.path}: duplicate key {name}, also in {self._home[name].path.name}; expected it once. "
                        "Remove the shard that does not belong to this checkpoint."
                    )
                self.tensors[name], self._home[name] = info, shard
        if (self.path / INDEX).is_file() and [shard.path.name for shard in self.shards] != [SINGLE]:
            self._check_index(self.path / INDEX)

    def read(self, name: str, index: tuple[slice, ...] = ()) -> np.ndarray:
        """A copy of a slice of tensor `name`."""
        return self._home[name].read(name, index)

    def file_of(self, name: str) -> Path:
        """The shard that holds tensor `name`."""
        return self._home[name].path

    def _check_index(self, index: Path) -> None:
        expected = read_index(index)
        found = {name: shard.path.name for name, shard in self._home.items()}
        for name in sorted(expected.keys() | found.keys()):
            # A tied head and buffers may stand in the index or in a shard alone: whether they are missed, the model
            # says, see formats/matching.py.
            if _OPTIONAL.search(name) and (name not in expected or name not in found):
                continue
            if expected.get(name) != found.get(name):
                raise CheckpointError(
                    f"{index}: {name} is found in {found.get(name, 'no shard')}, but the index expects it in "
                    f"{expected.get(name, 'no shard')}. The two belong to different checkpoints: fetch them again."
                )


def read_index(path: Path) -> dict[str, str]:
    """The weight map (tensor name -> shard file name) of an index file."""
    try:
        weight_map = json.loads(path.read_text())["weight_map"]
        return {str(name): str(file) for name, file in weight_map.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path}: not an index with a weight_map ({error!r}). Fetch the file again.") from error


def _shards(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise FileNotFoundError(f"{path} does not exist: expected a checkpoint folder or a .safetensors file.")
    present = {file.name for file in path.glob("*.safetensors")}
    refuse_adapters(path)
    named = sorted(set(read_index(path / INDEX).values())) if (path / INDEX).is_file() else []
    # An index whose shards are all gone was left when the weights were saved anew in one file, as transformers sees it.
    if SINGLE in present and not any(name in present for name in named):
        named = [SINGLE]
    if missing := [name for name in named if name not in present]:
        raise CheckpointError(f"{path}: shards {missing} of the index are missing. Fetch them again.")
    if stray := sorted(present - set(named)):
        raise CheckpointError(
            f"{path}: {stray} do not belong to the checkpoint, which is {named or 'nothing'} (an {INDEX} names all "
            f"shards; a single file is called {SINGLE}). Restore the index or move the files away."
        )
    if not named:
        pickles = pickle_files(path)
        found = f"only the pickle files {pickles}. {PICKLE_ADVICE}" if pickles else "no safetensors file."
        raise CheckpointError(f"{path}: expected {SINGLE} or {INDEX}, found {found}")
    return [path / name for name in named]


def refuse_adapters(folder: Path) -> None:
    """Raises CheckpointError for a folder with an adapter (LoRA): it would be passed over without a word."""
    if found := [name for name in ADAPTERS if (folder / name).is_file()]:
        raise CheckpointError(
            f"{folder}: found the adapter {found}, expected whole weights: an adapter alone is no model, and beside "
            "whole weights it is not known whether it is in them already. Merge it (peft: "
            "PeftModel.from_pretrained(model, FOLDER).merge_and_unload().save_pretrained(NEW)), or move its files away."
        )


def pickle_files(folder: Path) -> list[str]:
    """Names of files in `folder` that look like pickles."""
    return sorted(file.name for file in folder.iterdir() if file.suffix in PICKLE_SUFFIXES)


class NpzFile:
    """An .npz file of float arrays; `prefix` (such as "w/") is what all its names start with and is left out."""

    def __init__(self, path: str | Path):
        """Reads all array headers.

        Raises:
            CheckpointError: not an .npz file, truncated, pickled, duplicate or unsupported arrays.
        """
        self.path = Path(path)
        try:
            with ZipFile(self.path) as archive:
                self.compressed = any(member.compress_type != ZIP_STORED for member in archive.infolist())
                members = [name.removesuffix(".npy") for name in archive.namelist()]
                infos = {name: self._info(archive, name) for name in members}
        except (BadZipFile, EOFError) as error:
            raise CheckpointError(f"{self.path}: truncated or not an .npz file ({error}). Fetch it again.") from error
        if len(infos) < len(members):
            twice = sorted({name for name in members if members.count(name) > 1})
            raise CheckpointError(f"{self.path}: duplicate keys {twice}, expected each once.")
        self.prefix = "w/" if members and all(name.startswith("w/") for name in members) else ""
        self.tensors = {name.removeprefix(self.prefix): info for name, info in infos.items()}

    def _info(self, archive: ZipFile, name: str) -> TensorInfo:
        with archive.open(f"{name}.npy") as file:
            version = np.lib.format.read_magic(file)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, _, dtype = read(file)
        if dtype.hasobject:
            raise CheckpointError(f"{self.path}: {name} is a pickled object. {PICKLE_ADVICE}")
        if dtype not in DTYPES.values():
            raise CheckpointError(f"{self.path}: {name} has dtype {dtype}, expected float32 or float16.")
        return TensorInfo(shape, dtype, 0)

    def read(self, name: str, index: tuple[slice, ...] = ()) -> np.ndarray:
        """A copy of a slice (the whole tensor is read: zip members have no random access)."""
        with np.load(self.path, allow_pickle=False) as arrays:
            return np.ascontiguousarray(arrays[self.prefix + name][index])

    def file_of(self, name: str) -> Path:
        """The file itself."""
        return self.path


# Named tensors of which slices can be read: `.tensors`, `.read(name, index)`, `.file_of(name)`.
TensorSource = SafetensorsFolder | NpzFile


def open_tensors(path: str | Path) -> TensorSource:
    """Opens a folder of safetensors, a .safetensors file or an .npz file, by what it is.

    Raises:
        CheckpointError: a pickle, or a file type that is not known; see the classes for damaged files.
    """
    path = Path(path)
    if path.suffix in PICKLE_SUFFIXES:
        raise CheckpointError(f"{path} is a pickle file. {PICKLE_ADVICE}")
    if path.suffix == ".npz":
        return NpzFile(path)
    if path.is_file() and path.suffix != ".safetensors":
        raise CheckpointError(f"{path}: unknown file type {path.suffix!r}, expected .safetensors, .npz or a folder.")
    return SafetensorsFolder(path)


def listing(lines: Iterable[str], limit: int = 16) -> str:
    """Lines for an error message, the first `limit` of them."""
    lines = list(lines)
    more = [f"... and {len(lines) - limit} more"] if len(lines) > limit else []
    return "".join(f"\n  {line}" for line in lines[:limit] + more)
