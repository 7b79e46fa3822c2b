"""`lam-jax convert`: foreign checkpoints into ours and back, byte for byte, and nothing half-written."""

import json
from pathlib import Path

import chex
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from lam_jax.cli import main
from lam_jax.formats import convert as module
from lam_jax.formats import safetensors_io
from lam_jax.formats.agent_folder import load_checkpoint
from lam_jax.formats.convert import convert, read_any_config
from lam_jax.formats.load_backbone import load_backbone
from lam_jax.formats.load_latent import load_released
from lam_jax.formats.safetensors_io import CheckpointError
from lam_jax.latent.config import LatentConfig
from lam_jax.models.qwen2_5_vl.config import QwenConfig, TextConfig, VisionConfig
from lam_jax.models.qwen2_5_vl.presets import PRESETS
from lam_jax.parallel import TRAIN, make_mesh
from tests.formats import made_checkpoint as made
from tests.formats import made_released

SMALL = PRESETS["small"]
LATENT = LatentConfig(codes=6, inverse_layers=2, policy_layers=3, merge_layers=2)
TINY = QwenConfig(
    TextConfig(64, width=16, hidden=24, layers=2, heads=2, kv_heads=1, mrope_sections=(1, 1, 2)),
    VisionConfig(8, hidden=12, layers=2, heads=1, full_layers=(1,), window=56, out_width=16),
    **{"pad_id": 57, "eos_id": 59, "vision_start_id": 60, "vision_end_id": 61, "image_id": 62, "video_id": 63},
)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("dtype", [made.BF16, np.dtype(np.float16), np.dtype(np.float32)], ids=str)
def test_three_shards_of_the_small_preset_come_back_byte_for_byte(tmp_path: Path, dtype: np.dtype):
    folder = made.write(tmp_path / "hf", SMALL, made.tensors(SMALL, dtype), shards=3)
    (folder / "extra").mkdir()
    (folder / "extra" / "notes.txt").write_text("kept")
    before = contents(folder)
    report = convert(folder, tmp_path / "ours")
    assert report.tensors == len(made.shapes(SMALL))
    assert not report.skipped
    convert(tmp_path / "ours", tmp_path / "back")
    assert contents(tmp_path / "back") == before
    assert len(before) == 3 + 1 + 4, "three shards, their index, four other files"


@pytest.mark.parametrize("shards", [1, 2])
def test_todays_names_come_back_byte_for_byte(tmp_path: Path, shards: int):
    tensors = {made.today(name): tensor for name, tensor in made.tensors(TINY).items()}
    folder = made.write(tmp_path / "hf", TINY, tensors, shards=shards, nested=True)
    convert(folder, tmp_path / "ours")
    convert(tmp_path / "ours", tmp_path / "back")
    assert contents(tmp_path / "back") == contents(folder)


def test_every_bit_pattern_survives(tmp_path: Path):
    """Signalling NaNs, infinities, subnormals: numbers that arithmetic would change."""
    tensors = made.tensors(TINY)
    bits = np.random.default_rng(0).integers(0, 2**16, (16, 16), dtype=np.uint16)
    tensors["model.layers.1.self_attn.q_proj.weight"] = bits.view(made.BF16)
    folder = made.write(tmp_path / "hf", TINY, tensors)
    convert(folder, tmp_path / "ours")
    convert(tmp_path / "ours", tmp_path / "back")
    assert contents(tmp_path / "back") == contents(folder)


def test_tensors_that_no_weight_needs_are_named_and_given_back(tmp_path: Path):
    tensors = made.tensors(TINY)
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].copy()
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = np.arange(4, dtype=np.float32)
    folder = made.write(tmp_path / "hf", TINY, tensors, shards=2)
    report = convert(folder, tmp_path / "ours")
    assert sorted(line.split(":")[0] for line in report.skipped) == sorted(set(tensors) - set(made.shapes(TINY)))
    assert "lm_head.weight: the tied head, equal to the embedding" in report.skipped
    convert(tmp_path / "ours", tmp_path / "back")
    assert contents(tmp_path / "back") == contents(folder)


def test_conversion_in_small_chunks_gives_the_same_files(tmp_path: Path, monkeypatch):
    folder = made.write(tmp_path / "hf", TINY, made.tensors(TINY), shards=2)
    convert(folder, tmp_path / "a")
    monkeypatch.setattr(safetensors_io, "CHUNK_BYTES", 100)
    convert(folder, tmp_path / "b")
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    convert(tmp_path / "b", tmp_path / "back")
    assert contents(tmp_path / "back") == contents(folder)


def test_ours_loads_as_the_original_does_sharded_too(tmp_path: Path):
    folder = made.write(tmp_path / "hf", TINY, made.tensors(TINY))
    convert(folder, tmp_path / "ours")
    expected = load_backbone(folder, make_mesh((1, 1, 1)), TRAIN)
    found, latent = load_checkpoint(tmp_path / "ours", make_mesh((2, 2, 2)), TRAIN)
    assert latent is None
    assert found.config == expected.config
    chex.assert_trees_all_equal(found, expected)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("prefix", ["", "w/"])
def test_a_released_npz_comes_back_byte_for_byte(tmp_path: Path, save, prefix: str):
    tensors = made_released.tensors(TINY, LATENT)
    save(tmp_path / "in.npz", **{prefix + name: tensor for name, tensor in tensors.items()})
    report = convert(tmp_path / "in.npz", tmp_path / "ours", TINY)
    assert (report.tensors, len(report.skipped)) == (len(tensors), 1)
    convert(tmp_path / "ours", tmp_path / "out.npz")
    assert (tmp_path / "out.npz").read_bytes() == (tmp_path / "in.npz").read_bytes()


def test_a_released_safetensors_file_comes_back_byte_for_byte(tmp_path: Path):
    save_file(made_released.tensors(TINY, LATENT), tmp_path / "in.safetensors", metadata={"step": "100"})
    convert(tmp_path / "in.safetensors", tmp_path / "ours", TINY)
    convert(tmp_path / "ours", tmp_path / "out.safetensors")
    assert (tmp_path / "out.safetensors").read_bytes() == (tmp_path / "in.safetensors").read_bytes()


def test_a_folder_with_latent_modules_keeps_them(tmp_path: Path):
    """As transformers' `save_pretrained` writes the released model: config.json beside shards."""
    tensors = made_released.tensors(TINY, LATENT)
    folder = made.write(tmp_path / "hf", TINY, tensors, shards=3)
    convert(folder, tmp_path / "ours")
    _, latent = load_checkpoint(tmp_path / "ours", make_mesh((1, 1, 1)), TRAIN)
    assert latent is not None
    assert latent.config == LATENT
    convert(tmp_path / "ours", tmp_path / "back")
    assert contents(tmp_path / "back") == contents(folder)


def test_other_targets_than_the_origin(tmp_path: Path):
    tensors = made_released.tensors(TINY, LATENT)
    np.savez(tmp_path / "in.npz", **tensors)
    convert(tmp_path / "in.npz", tmp_path / "ours", TINY)
    convert(tmp_path / "ours", tmp_path / "out.safetensors")
    found = load_file(tmp_path / "out.safetensors")
    assert found.keys() == tensors.keys()
    assert all(np.array_equal(found[name], tensors[name]) for name in tensors)
    report = convert(tmp_path / "ours", tmp_path / "hf")
    assert all(line.startswith("latent.") for line in report.skipped)
    assert report.skipped
    expected, _ = load_released(tmp_path / "in.npz", TINY)
    loaded = load_backbone(tmp_path / "hf", make_mesh((1, 1, 1)), TRAIN)
    chex.assert_trees_all_equal(loaded, expected)


def test_a_state_dict_needs_latent_modules_and_a_config(tmp_path: Path):
    folder = made.write(tmp_path / "hf", TINY, made.tensors(TINY))
    convert(folder, tmp_path / "ours")
    with pytest.raises(CheckpointError, match="holds no latent modules"):
        convert(tmp_path / "ours", tmp_path / "out.npz")
    np.savez(tmp_path / "in.npz", **made_released.tensors(TINY, LATENT))
    with pytest.raises(ValueError, match=r"in\.npz: a state dict does not tell heads.*name a preset or a config"):
        convert(tmp_path / "in.npz", tmp_path / "ours2")


def test_configs_come_from_either_kind_of_file(tmp_path: Path):
    hf = made.config_json(TINY)
    (tmp_path / "config.json").write_text(json.dumps(hf))
    assert read_any_config(tmp_path / "config.json") == TINY
    ids = {"image": 62, "video": 63, "vstart": 60, "vend": 61, "pad": 57, "eos": 59}
    golden = {"text_config": hf, "vision_config": hf["vision_config"], "special_ids": ids, "tie_word_embeddings": True}
    (tmp_path / "golden.json").write_text(json.dumps(golden))
    assert read_any_config(tmp_path / "golden.json") == TINY
    (tmp_path / "bad.json").write_text("[]")
    with pytest.raises(ValueError, match=r"bad\.json: not the config of a model \(found list, expected an object\)"):
        read_any_config(tmp_path / "bad.json")


def test_the_command_converts_and_refuses(tmp_path: Path, capsys):
    np.savez(tmp_path / "in.npz", **made_released.tensors(TINY, LATENT))
    (tmp_path / "config.json").write_text(json.dumps(made.config_json(TINY)))
    source, ours, out = (str(tmp_path / name) for name in ("in.npz", "ours", "out.npz"))
    assert main(["convert", source, ours]) == 1
    assert "name a preset or a config.json" in capsys.readouterr().err
    assert main(["convert", source, ours, "--config", str(tmp_path / "config.json")]) == 0
    assert "skipped: lm_head.weight" in capsys.readouterr().out
    assert main(["convert", ours, out]) == 0
    assert (tmp_path / "in.npz").read_bytes() == (tmp_path / "out.npz").read_bytes()
    assert main(["convert", ours, out]) == 1
    error = capsys.readouterr().err
    assert "out.npz exists already" in error
    assert "Traceback" not in error


def test_failures_leave_no_output(tmp_path: Path, monkeypatch):
    folder = made.write(tmp_path / "hf", TINY, made.tensors(TINY))

    def full(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr(module, "write", full)
    with pytest.raises(OSError, match="No space left"):
        convert(folder, tmp_path / "ours")
    assert [path.name for path in tmp_path.iterdir()] == ["hf"]


def test_refused_sources_and_targets(tmp_path: Path):
    folder = made.write(tmp_path / "hf", TINY, made.tensors(TINY))
    with pytest.raises(FileNotFoundError, match="does not exist"):
        convert(tmp_path / "absent", tmp_path / "ours")
    (tmp_path / "taken").write_text("")
    with pytest.raises(FileExistsError, match="taken exists already"):
        convert(folder, tmp_path / "taken")
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    with pytest.raises(CheckpointError, match=r"found the pickle files \['pytorch_model\.bin'\]"):
        convert(folder, tmp_path / "ours")


def test_damaged_checkpoints_of_ours(tmp_path: Path):
    folder = made.write(tmp_path / "hf", TINY, made.tensors(TINY))
    convert(folder, tmp_path / "ours")
    manifest = tmp_path / "ours" / "lam_jax.json"
    text = manifest.read_text()
    manifest.write_text(text.replace('"version": 1', '"version": 9'))
    with pytest.raises(CheckpointError, match=r"found format .*9.*expected .*1.*Convert it again"):
        convert(tmp_path / "ours", tmp_path / "back")
    manifest.write_text(text[:100])
    with pytest.raises(CheckpointError, match=r"lam_jax\.json: damaged"):
        convert(tmp_path / "ours", tmp_path / "back")
    manifest.write_text(text.replace('"layers": 2', '"layers": 3', 1))
    with pytest.raises(CheckpointError, match=r"found shape \(2, .*expected \(3, "):
        convert(tmp_path / "ours", tmp_path / "back")
    manifest.write_text(text)
    weights = tmp_path / "ours" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    with pytest.raises(CheckpointError, match=r"weights\.safetensors: truncated"):
        convert(tmp_path / "ours", tmp_path / "back")
