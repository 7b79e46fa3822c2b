"""What a damaged, incomplete or foreign checkpoint is refused with: file, key, found, expected, what to do."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from lam_jax.formats.checkpoint_files import NpzFile, open_tensors
from lam_jax.formats.load_backbone import load_backbone
from lam_jax.formats.safetensors_io import CheckpointError, SafetensorsFile, header_text, write
from lam_jax.models.qwen2_5_vl.config import QwenConfig, TextConfig, VisionConfig
from lam_jax.parallel import TRAIN, make_mesh
from tests.formats import made_checkpoint as made

CONFIG = QwenConfig(
    TextConfig(64, width=16, hidden=24, layers=2, heads=2, kv_heads=1, mrope_sections=(1, 1, 2)),
    VisionConfig(8, hidden=12, layers=2, heads=1, full_layers=(1,), window=56, out_width=16),
    **{"pad_id": 57, "eos_id": 59, "vision_start_id": 60, "vision_end_id": 61, "image_id": 62, "video_id": 63},
)
QUERY = "model.layers.1.self_attn.q_proj.weight"
SHARD = "model-00002-of-00003.safetensors"


def refused(folder: Path, *fragments: str) -> None:
    """Loading raises an error that says every fragment."""
    with pytest.raises(ValueError) as error:
        load_backbone(folder, make_mesh((1, 1, 1)), TRAIN)
    for fragment in fragments:
        assert fragment in str(error.value)


def changed(tmp_path: Path, change: Callable[[made.Tensors], object], shards: int = 1) -> Path:
    tensors = made.tensors(CONFIG)
    change(tensors)
    return made.write(tmp_path / "hf", CONFIG, tensors, shards)


def test_missing_keys_are_named_with_their_shape(tmp_path: Path):
    folder = changed(tmp_path, lambda tensors: tensors.pop(QUERY))
    refused(folder, str(folder), "layers.1.self_attn.q_proj.weight: missing, expected shape (16, 16)")


def test_unexpected_keys_are_named_with_their_file(tmp_path: Path):
    folder = changed(tmp_path, lambda tensors: tensors.update({"model.extra.weight": np.zeros(3, np.float32)}))
    refused(folder, "model.extra.weight (model.safetensors): unexpected")


def test_wrong_shapes_say_found_and_expected(tmp_path: Path):
    folder = changed(tmp_path, lambda tensors: tensors.update({QUERY: np.zeros((16, 8), np.float32)}))
    refused(folder, QUERY, "found shape (16, 8), expected (16, 16)")


def test_all_problems_are_listed_at_once(tmp_path: Path):
    def change(tensors):
        del tensors[QUERY]
        tensors["model.norm.weight"] = np.zeros(17, np.float32)

    refused(changed(tmp_path, change), "2 keys do not fit", "q_proj", "model.norm.weight")


def test_layers_of_different_dtypes(tmp_path: Path):
    folder = changed(tmp_path, lambda tensors: tensors.update({QUERY: tensors[QUERY].astype(np.float32)}))
    refused(folder, "self_attn.q_proj.weight: layers have the dtypes ['bfloat16', 'float32'], expected one")


def test_a_key_in_two_shards(tmp_path: Path):
    folder = changed(tmp_path, lambda _: None, shards=3)
    homes = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    home = homes[QUERY]
    other = next(shard for shard in homes.values() if shard != home)
    save_file(load_file(folder / other) | {QUERY: made.tensors(CONFIG)[QUERY]}, folder / other)
    refused(folder, "duplicate key", QUERY, other, home)


def test_a_key_under_both_names(tmp_path: Path):
    folder = changed(tmp_path, lambda tensors: tensors.update({made.today(QUERY): tensors[QUERY]}))
    refused(folder, "duplicate key", QUERY, made.today(QUERY))


def test_a_key_twice_in_one_header(tmp_path: Path):
    folder = changed(tmp_path, lambda _: None)
    path = folder / "model.safetensors"
    raw = path.read_bytes()
    other = b"model.layers.0.self_attn.q_proj.weight"
    path.write_bytes(raw.replace(other, QUERY.encode(), 1))
    refused(folder, "duplicate keys", QUERY, str(path))


@pytest.mark.parametrize("keep", [4, 100, -1], ids=["size", "header", "data"])
def test_truncated_files(tmp_path: Path, keep: int):
    folder = changed(tmp_path, lambda _: None)
    path = folder / "model.safetensors"
    raw = path.read_bytes()
    path.write_bytes(raw[:keep])
    refused(folder, str(path), "truncated", f"{len(raw[:keep])}", "Fetch the file again")


def test_trailing_data(tmp_path: Path):
    folder = changed(tmp_path, lambda _: None)
    with (folder / "model.safetensors").open("ab") as file:
        file.write(b"more")
    refused(folder, "trailing data")


def test_a_file_that_is_not_safetensors(tmp_path: Path):
    folder = changed(tmp_path, lambda _: None)
    (folder / "model.safetensors").write_bytes((20).to_bytes(8, "little") + b"this is not a header")
    refused(folder, "header is not that of a safetensors file")


def test_a_header_whose_spans_overlap(tmp_path: Path):
    path = tmp_path / "x.safetensors"
    tensors = {"a": (np.dtype("f4"), (2,)), "b": (np.dtype("f4"), (2,))}
    header = header_text(tensors, {}).replace("[8,16]", "[4,12]")
    path.write_bytes(len(header).to_bytes(8, "little") + header.encode() + bytes(12))
    with pytest.raises(CheckpointError, match=r"b starts at byte .* expected"):
        SafetensorsFile(path)


def test_integer_tensors_are_refused_with_advice(tmp_path: Path):
    folder = changed(tmp_path, lambda tensors: tensors.update({QUERY: np.zeros((16, 16), np.int8)}))
    refused(folder, QUERY, "dtype I8, expected one of F32, F16, BF16", "unquantised")


def test_a_missing_shard(tmp_path: Path):
    folder = changed(tmp_path, lambda _: None, shards=3)
    (folder / SHARD).unlink()
    refused(folder, str(folder), SHARD, "missing")


def test_an_index_of_another_checkpoint(tmp_path: Path):
    folder = changed(tmp_path, lambda _: None, shards=3)
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    index["weight_map"]["model.norm.weight"] = "model-00001-of-00003.safetensors"
    index["weight_map"][QUERY] = SHARD
    path.write_text(json.dumps(index))
    refused(folder, "model.safetensors.index.json", "the index expects it in")


def test_a_damaged_index(tmp_path: Path):
    folder = changed(tmp_path, lambda _: None, shards=3)
    (folder / "model.safetensors.index.json").write_text("{}")
    refused(folder, "not an index with a weight_map")


def test_a_shard_that_no_index_names(tmp_path: Path):
    folder = changed(tmp_path, lambda _: None)
    (folder / "model.safetensors").rename(folder / "weights-a.safetensors")
    refused(folder, "weights-a.safetensors", "do not belong to the checkpoint")


def test_pickles_are_refused_with_the_way_to_re_save(tmp_path: Path):
    folder = changed(tmp_path, lambda _: None)
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({}))
    refused(folder, "pytorch_model.bin", "Pickle files can run any code", "safetensors.torch.save_file")
    # Also under a better name, and as the zip that torch.save writes.
    for disguise in (pickle.dumps({}, protocol=4) + bytes(20), b"PK\x03\x04" + bytes(20)):
        (folder / "model.safetensors").write_bytes(disguise)
        refused(folder, "is a pickle (or zip) file, not safetensors")
    with pytest.raises(CheckpointError, match=r"model\.pt is a pickle file.*safetensors\.torch\.save_file"):
        open_tensors(tmp_path / "model.pt")


def test_an_empty_folder_and_an_absent_one(tmp_path: Path):
    folder = changed(tmp_path, lambda _: None)
    (folder / "model.safetensors").unlink()
    refused(folder, "expected model.safetensors", "found no safetensors file")
    with pytest.raises(FileNotFoundError, match=r"config\.json is missing"):
        load_backbone(tmp_path / "absent", make_mesh((1, 1, 1)), TRAIN)


def test_a_config_of_other_sizes(tmp_path: Path):
    folder = changed(tmp_path, lambda _: None)
    config = made.config_json(CONFIG) | {"num_hidden_layers": 3}
    (folder / "config.json").write_text(json.dumps(config))
    refused(folder, "model.language_model.layers.2.input_layernorm.weight: missing", "Check that config and weights")


def test_a_tied_head_may_be_stored_if_it_is_the_embedding(tmp_path: Path):
    table = "model.embed_tokens.weight"
    folder = changed(tmp_path, lambda tensors: tensors.update({"lm_head.weight": tensors[table].copy()}))
    assert load_backbone(folder, make_mesh((1, 1, 1)), TRAIN).lm_head is None
    other = changed(tmp_path / "b", lambda tensors: tensors.update({"lm_head.weight": tensors[table] * 2}))
    refused(other, "lm_head.weight differs from model.embed_tokens.weight", "tie_word_embeddings")


def test_computed_buffers_are_skipped_and_named(tmp_path: Path, caplog):
    buffer = "model.layers.0.self_attn.rotary_emb.inv_freq"
    folder = changed(tmp_path, lambda tensors: tensors.update({buffer: np.zeros(4, np.float32)}))
    with caplog.at_level("INFO", "lam_jax.formats.load_backbone"):
        load_backbone(folder, make_mesh((1, 1, 1)), TRAIN)
    assert f"skipped {buffer}" in caplog.text


def test_damaged_npz_files(tmp_path: Path):
    path = tmp_path / "x.npz"
    np.savez(path, a=np.zeros(3, np.float32))
    raw = path.read_bytes()
    path.write_bytes(raw[: len(raw) // 2])
    with pytest.raises(CheckpointError, match=r"truncated or not an \.npz file"):
        NpzFile(path)
    np.savez(path, a=np.array({"x": 1}, dtype=object))
    with pytest.raises(CheckpointError, match="a is a pickled object"):
        NpzFile(path)
    np.savez(path, a=np.zeros(3, np.int64))
    with pytest.raises(CheckpointError, match="a has dtype int64, expected float32 or float16"):
        NpzFile(path)


def test_a_tensor_of_the_wrong_size_is_not_written(tmp_path: Path):
    header = header_text({"a": (np.dtype("f4"), (3,))}, {})
    with pytest.raises(CheckpointError, match="a got 8 bytes, but its header entry has 12"):
        write(tmp_path / "x.safetensors", header, lambda _: [np.zeros(2, np.float32)])
