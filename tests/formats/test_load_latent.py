"""The released code's state dict in and out, with a dictionary made by hand."""

from pathlib import Path

import chex
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from lam_jax.formats.agent_folder import load_checkpoint, save_checkpoint
from lam_jax.formats.load_latent import load_released, save_released
from lam_jax.formats.safetensors_io import CheckpointError
from lam_jax.latent.config import LatentConfig
from lam_jax.models.qwen2_5_vl.config import QwenConfig, TextConfig, VisionConfig
from lam_jax.parallel import ROLLOUT, TRAIN, make_mesh
from tests.formats import made_checkpoint, made_released

LATENT = LatentConfig(codes=6, inverse_layers=2, policy_layers=3, merge_layers=2)
IDS = {"pad_id": 57, "eos_id": 59, "vision_start_id": 60, "vision_end_id": 61, "image_id": 62, "video_id": 63}


def config(tied: bool = True) -> QwenConfig:
    text = TextConfig(64, width=16, hidden=24, layers=2, heads=2, kv_heads=1, mrope_sections=(1, 1, 2), tied=tied)
    return QwenConfig(text, VisionConfig(8, 12, layers=2, heads=1, full_layers=(1,), window=56, out_width=16), **IDS)


@pytest.mark.parametrize("tied", [True, False])
def test_weights_are_those_of_the_released_names(tmp_path: Path, tied: bool):
    tensors = made_released.tensors(config(tied), LATENT)
    save_file(tensors, tmp_path / "x.safetensors")
    backbone, latent = load_released(tmp_path / "x.safetensors", config(tied))
    assert latent.config == LATENT, "sizes are read off the tensors"
    at = "model.language_model"

    def check(ours, name):
        np.testing.assert_array_equal(np.asarray(ours), tensors[f"{at}.{name}"])

    check(backbone.embedding, "embed_tokens.weight")
    check(latent.codebook.T, "action_code_book.weight")
    check(latent.inverse.head.kernel.T, "inverse_head.weight")
    check(latent.inverse.norm.scale, "inverse_norm.weight")
    check(latent.policy.blocks.value.bias[2], "policy_layers.2.self_attn.v_proj.bias")
    check(latent.policy.blocks.mlp.up.kernel[1].T, "policy_layers.1.mlp.up_proj.weight")
    check(latent.world.blocks.gate.kernel[0].T, "action_merge_layers.0.fc_1.weight")
    check(latent.world.blocks.up.kernel[1].T, "action_merge_layers.1.fc_2.weight")
    check(latent.world.blocks.down.kernel[1].T, "action_merge_layers.1.proj.weight")
    check(latent.projector.mean.down.kernel.T, "Text2TV_mu.0.weight")
    check(latent.projector.log_variance_net.up.bias, "Text2TV_logvar.2.bias")
    check(latent.back_projector.mean.up.kernel.T, "TV2Text_mu.2.weight")
    if tied:
        assert backbone.lm_head is None
    else:
        np.testing.assert_array_equal(np.asarray(backbone.lm_head), tensors["lm_head.weight"])


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
@pytest.mark.parametrize("tied", [True, False])
def test_saved_state_dicts_equal_the_loaded_ones(tmp_path: Path, suffix: str, tied: bool):
    tensors = made_released.tensors(config(tied), LATENT)
    np.savez(tmp_path / "in.npz", **{f"w/{name}": array for name, array in tensors.items()})
    backbone, latent = load_released(tmp_path / "in.npz", config(tied), mesh=make_mesh((1, 2, 2)), rules=ROLLOUT)
    out = tmp_path / f"out{suffix}"
    save_released(out, backbone, latent)
    found = dict(np.load(out)) if suffix == ".npz" else load_file(out)
    assert found.keys() == tensors.keys()
    for name, array in tensors.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)


def test_our_own_checkpoint_keeps_every_bit(tmp_path: Path):
    np.savez(tmp_path / "in.npz", **made_released.tensors(config(), LATENT))
    backbone, latent = load_released(tmp_path / "in.npz", config())
    (tmp_path / "tokenizer.json").write_text("{}")
    save_checkpoint(tmp_path / "ours", backbone, latent, files={"tokenizer.json": tmp_path / "tokenizer.json"})
    assert (tmp_path / "ours" / "files" / "tokenizer.json").read_text() == "{}"
    again = load_checkpoint(tmp_path / "ours", make_mesh((1, 2, 2)), TRAIN)
    chex.assert_trees_all_equal((backbone, latent), again)
    assert (again[0].config, again[1].config) == (backbone.config, latent.config)
    save_checkpoint(tmp_path / "alone", backbone, dtype=jnp.bfloat16)
    alone, none = load_checkpoint(tmp_path / "alone", make_mesh((1, 1, 1)), TRAIN, jnp.bfloat16)
    assert none is None
    np.testing.assert_array_equal(np.asarray(alone.embedding), np.asarray(backbone.embedding.astype(jnp.bfloat16)))


def test_errors_of_state_dicts(tmp_path: Path):
    tensors = made_released.tensors(config(), LATENT)
    save_file(made_checkpoint.tensors(config()), tmp_path / "plain.safetensors")
    with pytest.raises(CheckpointError, match=r"plain\.safetensors: no latent modules \(inverse_layers"):
        load_released(tmp_path / "plain.safetensors", config())
    with pytest.raises(CheckpointError, match=r"model\.pt is a pickle file"):
        load_released(tmp_path / "model.pt", config())
    (tmp_path / "model.gguf").touch()
    with pytest.raises(CheckpointError, match=r"unknown file type '\.gguf'"):
        load_released(tmp_path / "model.gguf", config())
    gap = {name: array for name, array in tensors.items() if ".policy_layers.1." not in name}
    np.savez(tmp_path / "gap.npz", **gap)
    with pytest.raises(CheckpointError, match=r"12 keys do not fit(.|\n)*policy_layers\.1\..*missing"):
        load_released(tmp_path / "gap.npz", config())
    head = {**tensors, "lm_head.weight": tensors["lm_head.weight"] + 1}
    np.savez(tmp_path / "head.npz", **head)
    with pytest.raises(CheckpointError, match=r"lm_head.weight differs from"):
        load_released(tmp_path / "head.npz", config())
    wide = LatentConfig(codes=7, inverse_layers=2, policy_layers=3, merge_layers=2)
    np.savez(tmp_path / "x.npz", **tensors)
    with pytest.raises(CheckpointError, match=r"found shape \(6, 16\), expected \(7, 16\)"):
        load_released(tmp_path / "x.npz", config(), wide)


def test_state_dicts_are_saved_only_where_they_can_be(tmp_path: Path):
    np.savez(tmp_path / "in.npz", **made_released.tensors(config(), LATENT))
    backbone, latent = load_released(tmp_path / "in.npz", config())
    with pytest.raises(ValueError, match=r"unknown suffix '\.bin', expected \.safetensors or \.npz"):
        save_released(tmp_path / "out.bin", backbone, latent)
    with pytest.raises(ValueError, match=r"is bfloat16, which \.npz cannot hold"):
        save_released(tmp_path / "out.npz", backbone, latent, dtype=jnp.bfloat16)
    with pytest.raises(FileExistsError, match="exists already"):
        save_released(tmp_path / "in.npz", backbone, latent)
    assert [path.name for path in tmp_path.iterdir()] == ["in.npz"], "no partial output stays"
