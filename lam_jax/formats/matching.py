"""Which tensor of a checkpoint fills which weight: every key is consumed exactly once or named as skipped."""

import dataclasses
import re
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from lam_jax.formats.backbone_names import canonical
from lam_jax.formats.checkpoint_files import TensorSource, listing
from lam_jax.formats.names import Entry
from lam_jax.formats.safetensors_io import CODES, DTYPES, CheckpointError, row_chunks
from lam_jax.models.config import VisionSizes
from lam_jax.nn.weight import Weight, is_weight

# Buffers that transformers versions and other tools stored; they are computed from the config.
_BUFFERS = re.compile(r"\.(rotary_emb|rotary_pos_emb)\.(original_)?inv_freq$|(^|\.)position_ids$")
HEAD, TABLE = "lm_head.weight", "model.language_model.embed_tokens.weight"


@dataclasses.dataclass(frozen=True)
class Filling:
    """One weight of ours and the tensors that fill it.

    Attributes:
        entry: of the names table.
        weight: our spec.
        names: tensor names as they stand in the files, in stacking order.
        dtype: of those tensors.
    """

    entry: Entry
    weight: Weight
    names: tuple[str, ...]
    dtype: np.dtype


@dataclasses.dataclass(frozen=True)
class Matching:
    """The result of `match`.

    Attributes:
        fillings: our weights' paths -> what fills them.
        aliases: tensor name -> path of the weight that it repeats (a tied head).
        skipped: names of tensors that no weight needs.
    """

    fillings: dict[str, Filling]
    aliases: dict[str, str]
    skipped: tuple[str, ...]


def weights_by_path(specs: Any) -> dict[str, Any]:
    """Dotted path -> leaf of a module tree of specs or arrays."""
    leaves = jax.tree_util.tree_leaves_with_path(specs, is_leaf=is_weight)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}


def file_shape(entry: Entry, weight: Weight, vision: VisionSizes) -> tuple[int, ...]:
    """Shape in a checkpoint of each tensor of a weight."""
    shape = weight.shape[1:] if entry.layers else weight.shape
    if entry.layout == "transposed":
        return shape[::-1]
    if entry.layout == "patch":
        return (shape[-1], vision.channels, vision.temporal, vision.patch, vision.patch)
    return shape


def match(entries: Sequence[Entry], specs: Any, source: TensorSource, vision: VisionSizes, tied: bool) -> Matching:
    """Finds the tensors of every weight.

    Args:
        entries: names table of the model in `specs`.
        specs: a tree of `Weight`s.
        source: the checkpoint.
        vision: sizes of the patch embedding's kernel.
        tied: whether a `lm_head.weight` may be there as a copy of the embedding.

    Raises:
        CheckpointError: missing, unexpected, duplicate or wrongly shaped tensors, each named.
    """
    actual = _canonical_names(source)
    weights = weights_by_path(specs)
    problems: list[str] = []
    fillings: dict[str, Filling] = {}
    for entry in entries:
        weight, shape = weights[entry.path], file_shape(entry, weights[entry.path], vision)
        names = [actual.pop(name, None) for name in entry.names()]
        problems += [f"{n}: missing, expected shape {shape}" for n, a in zip(entry.names(), names) if a is None]
        present = tuple(name for name in names if name is not None)
        for name in present:
            if (found := source.tensors[name].shape) != shape:
                problems.append(f"{name} ({source.file_of(name).name}): found shape {found}, expected {shape}")
            if (dtype := source.tensors[name].dtype) not in DTYPES.values():
                problems.append(
                    f"{name} ({source.file_of(name).name}): found dtype {CODES.get(dtype, dtype)}, expected one of "
                    f"{', '.join(DTYPES)}: quantised weights cannot be used, take the model's unquantised release"
                )
        dtypes = {source.tensors[name].dtype for name in present}
        if len(dtypes) > 1:
            problems.append(f"{entry.name}: layers have the dtypes {sorted(map(str, dtypes))}, expected one")
        if len(present) == len(names) and len(dtypes) == 1:
            fillings[entry.path] = Filling(entry, weight, present, dtypes.pop())
    table = next((entry.path for entry in entries if entry.name == TABLE), "")
    aliases = {actual.pop(HEAD): table} if tied and table and HEAD in actual else {}
    skipped = tuple(name for key, name in actual.items() if is_buffer(key))
    unexpected = [name for key, name in actual.items() if not is_buffer(key)]
    problems += [
        f"{n} ({source.file_of(n).name}): unexpected, no weight of this model (dtype {_code(source, n)})"
        for n in unexpected
    ]
    if problems:
        raise CheckpointError(
            f"{source.path}: {len(problems)} keys do not fit the model of its config:{listing(problems)}\n"
            "Check that config and weights belong together (layer counts, sizes, tied head) and that the names are "
            "those of transformers."
        )
    unfilled = weights.keys() - {entry.path for entry in entries}
    if unfilled:
        raise ValueError(f"The names table has no entry for the weights {sorted(unfilled)}.")
    return Matching(fillings, aliases, skipped)


def is_buffer(name: str) -> bool:
    """Whether a tensor is a buffer that the config determines."""
    return _BUFFERS.search(name) is not None


def _code(source: TensorSource, name: str) -> str:
    dtype = source.tensors[name].dtype
    return CODES.get(dtype, str(dtype))


def _canonical_names(source: TensorSource) -> dict[str, str]:
    actual: dict[str, str] = {}
    for name in source.tensors:
        if (key := canonical(name)) in actual:
            raise CheckpointError(
                f"{source.file_of(name)}: duplicate key: {name} and {actual[key]} are the same tensor, expected one of "
                "them. Remove the file that does not belong to this checkpoint."
            )
        actual[key] = name
    return actual


def check_tied(source: TensorSource, matching: Matching) -> None:
    """Raises CheckpointError if a stored copy of a tied head is not the embedding."""
    for name, path in matching.aliases.items():
        table = matching.fillings[path].names[0]
        copy, info = source.tensors[name], source.tensors[table]
        equal = (copy.shape, copy.dtype) == (info.shape, info.dtype) and all(
            source.read(name, (rows,)).tobytes() == source.read(table, (rows,)).tobytes()
            for rows in row_chunks(info.shape[0], info.nbytes // info.shape[0])
        )
        if not equal:
            raise CheckpointError(
                f"{source.file_of(name)}: {name} differs from {table}, expected the same numbers because the config "
                "says tie_word_embeddings. Set it to false if the head is a matrix of its own, or remove the tensor."
            )
