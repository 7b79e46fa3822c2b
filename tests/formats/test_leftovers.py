"""What lies beside weights after training and conversion: it loads, is kept, or is named with what to do."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

import lam_jax
from lam_jax.formats.checkpoint_files import SafetensorsFolder
from lam_jax.formats.convert import convert
from lam_jax.formats.foreign import over
from lam_jax.formats.hf_config import from_hf, read_config
from lam_jax.formats.load_backbone import load_backbone
from lam_jax.formats.safetensors_io import CheckpointError
from lam_jax.models.qwen2_5_vl.config import QwenConfig, TextConfig, VisionConfig
from lam_jax.parallel import TRAIN, make_mesh
from tests.formats import made_checkpoint as made

TIED = QwenConfig(
    TextConfig(64, width=16, hidden=24, layers=2, heads=2, kv_heads=1, mrope_sections=(1, 1, 2), tied=True),
    VisionConfig(8, hidden=12, layers=2, heads=1, full_layers=(1,), window=56, out_width=16),
    **{"pad_id": 57, "eos_id": 59, "vision_start_id": 60, "vision_end_id": 61, "image_id": 62, "video_id": 63},
)
LEFT = ("optimizer.pt", "training_args.bin", "scheduler.pt", "rng_state.pth", "scaler.pt", "trainer_state.json")
INDEX = "model.safetensors.index.json"


def load(folder: Path):
    return load_backbone(folder, make_mesh((1, 1, 1)), TRAIN)


def change_index(folder: Path, change) -> None:
    index = json.loads((folder / INDEX).read_text())
    change(index["weight_map"])
    (folder / INDEX).write_text(json.dumps(index))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", ["lm_head.weight", "model.layers.0.self_attn.rotary_emb.inv_freq"])
def test_an_index_may_list_a_tied_head_or_a_buffer_that_no_shard_holds(tmp_path, name):
    folder = made.write(tmp_path / "hf", TIED, made.tensors(TIED), shards=3)
    change_index(folder, lambda names: names.update({name: "model-00003-of-00003.safetensors"}))
    assert load(folder).lm_head is None
    convert(folder, tmp_path / "ours")
    convert(tmp_path / "ours", tmp_path / "back")
    assert contents(tmp_path / "back") == contents(folder)


def test_a_shard_may_hold_a_tied_head_that_the_index_does_not_list(tmp_path):
    tensors = made.tensors(TIED)
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].copy()
    folder = made.write(tmp_path / "hf", TIED, tensors, shards=3)
    change_index(folder, lambda names: names.pop("lm_head.weight"))
    assert load(folder).lm_head is None


def test_a_head_of_its_own_that_no_shard_holds_is_missed(tmp_path):
    text = TextConfig(**{**vars(TIED.text), "tied": False})
    config = QwenConfig(**{**vars(TIED), "text": text})
    tensors = made.tensors(config)
    folder = made.write(tmp_path / "hf", config, tensors, shards=3)
    shard = json.loads((folder / INDEX).read_text())["weight_map"]["lm_head.weight"]
    kept = {name: t for name, t in SafetensorsFolder(folder).tensors.items() if name != "lm_head.weight"}
    here = {n: tensors[n] for n in kept if SafetensorsFolder(folder).file_of(n).name == shard}
    save_file(here, folder / shard)
    with pytest.raises(CheckpointError, match=r"lm_head\.weight: missing, expected shape \(64, 16\)"):
        load(folder)


def test_an_index_without_its_shards_beside_whole_weights_is_passed_over(tmp_path):
    folder = made.write(tmp_path / "hf", TIED, made.tensors(TIED))
    old = {"metadata": {}, "weight_map": {"model.norm.weight": "model-00001-of-00002.safetensors"}}
    (folder / INDEX).write_text(json.dumps(old))
    load(folder)


def test_what_training_leaves_beside_the_weights_is_never_opened(tmp_path):
    folder = made.write(tmp_path / "hf", TIED, made.tensors(TIED), shards=2)
    before = contents(folder)
    for name in LEFT:
        (folder / name).write_bytes(b"\x80\x04junk")
    (folder / "global_step9").mkdir()
    (folder / "global_step9" / "zero_pp_rank_0.pt").write_bytes(b"PK\x03\x04")
    load(folder)
    report = convert(folder, tmp_path / "ours")
    named = {line.partition(":")[0] for line in report.skipped}
    assert named == {name for name in LEFT if not name.endswith(".json")} | {"global_step9/zero_pp_rank_0.pt"}
    convert(tmp_path / "ours", tmp_path / "back")
    assert contents(tmp_path / "back") == before | {"trainer_state.json": b"\x80\x04junk"}


@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.bool_, np.float64, np.uint8])
def test_a_buffer_of_another_type_is_named_and_nothing_is_called_quantised(tmp_path, dtype):
    tensors = {**made.tensors(TIED), "model.rope_deltas": np.zeros(3, dtype)}
    folder = made.write(tmp_path / "hf", TIED, tensors)
    with pytest.raises(CheckpointError) as error:
        load(folder)
    assert "model.rope_deltas (model.safetensors): unexpected, no weight of this model (dtype " in str(error.value)
    assert "uantised" not in str(error.value)


def test_buffers_that_the_config_gives_are_skipped_and_given_back_whatever_their_type(tmp_path):
    tensors = made.tensors(TIED)
    tensors["model.position_ids"] = np.arange(6)[None]
    tensors["visual.rotary_pos_emb.inv_freq"] = np.arange(4, dtype=np.float64)
    tensors["model.rotary_emb.original_inv_freq"] = np.arange(4, dtype=np.float32)
    folder = made.write(tmp_path / "hf", TIED, tensors)
    load(folder)
    report = convert(folder, tmp_path / "ours")
    assert len(report.skipped) == 3
    load_backbone_again = convert(tmp_path / "ours", tmp_path / "back")
    assert load_backbone_again.tensors == len(tensors)
    assert contents(tmp_path / "back") == contents(folder)


@pytest.mark.parametrize("beside", [False, True])
def test_an_adapter_is_refused_with_the_way_to_merge_it(tmp_path, beside):
    folder = made.write(tmp_path / "hf", TIED, made.tensors(TIED))
    (folder / "adapter_config.json").write_text("{}")
    (folder / "adapter_model.safetensors").write_bytes(b"")
    if not beside:
        (folder / "config.json").unlink()
        (folder / "model.safetensors").unlink()
    for act in (load, lambda at: convert(at, tmp_path / "ours"), lam_jax.load):
        with pytest.raises(CheckpointError, match=r"found the adapter .*adapter_model.*merge_and_unload"):
            act(folder)


FOREIGN = {
    "max_position_embeddings": 128000,
    "transformers_version": "4.41.2",
    "our_lab": {"note": [1, "ü"]},
    "attention_dropout": 0.0,
    "max_window_layers": 70,
}


@pytest.mark.parametrize("nested", [False, True], ids=["flat", "nested"])
def test_foreign_keys_survive_loading_and_saving(tmp_path, nested):
    folder = made.write(tmp_path / "hf", TIED, made.tensors(TIED), nested=nested)
    values = json.loads((folder / "config.json").read_text())
    values |= {**FOREIGN, "eos_token_id": [59, 57]}
    values["vision_config"] |= {"tokens_per_second": 2, "in_chans": 3}
    if nested:
        values["text_config"] |= FOREIGN | {"dtype": "float32", "eos_token_id": [59, 57]}
    (folder / "config.json").write_text(json.dumps(values))
    config = read_config(folder)
    written = over(values, config, "bfloat16")
    assert written.pop("compute_dtype") == config.compute_dtype
    changed = {"dtype": "bfloat16"} if nested else {"torch_dtype": "bfloat16"}
    expected = {**values, **changed}
    if nested:
        expected["text_config"] = {**values["text_config"], **changed}
    assert written == expected
    (folder / "config.json").write_text(json.dumps(over(values, config, "bfloat16")))
    assert read_config(folder) == config


@pytest.mark.parametrize("nested", [False, True], ids=["flat", "nested"])
def test_end_tokens_that_other_files_named_do_not_make_it_another_model(nested):
    base = made.config_json(TIED, nested) | {"our_lab": 1}
    config = QwenConfig(**{**vars(TIED), "eos_id": 58})
    written = over(base, config, "float32")
    assert written["our_lab"] == 1
    assert from_hf(written) == config


def test_a_config_of_another_model_is_left_aside(caplog):
    other = made.config_json(TIED) | {"num_hidden_layers": 3, "our_lab": 1}
    assert "our_lab" not in over(other, TIED, "float32")
    assert "describes another model" in caplog.text
    assert "our_lab" not in over({"our_lab": 1}, TIED, "float32")
    assert over(None, TIED, "float32")["vocab_size"] == 64


@pytest.mark.parametrize("kind", ["狮" * 81, "é" * 127, "x" * 255])
def test_names_near_the_longest_that_there_are(tmp_path, kind):
    """Of the folder, and of a state dict file; a temporary name beside must not be longer."""
    folder = made.write(tmp_path / kind, TIED, made.tensors(TIED))
    ours, back = tmp_path / "a" / kind, tmp_path / "b" / kind
    convert(folder, ours)
    convert(ours, back)
    assert contents(back) == contents(folder)
    for parent in (ours.parent, back.parent):
        assert [path.name for path in parent.iterdir()] == [kind]
