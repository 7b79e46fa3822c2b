"""Qwen3-VL folders in and out: names, shapes, config.json, bit for bit; what is not computed here is refused."""

import copy
import dataclasses
import json
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from lam_jax.formats.agent_folder import load_checkpoint, read_manifest, save_checkpoint
from lam_jax.formats.convert import convert
from lam_jax.formats.families import FORMATS
from lam_jax.formats.hf_config import from_hf, read_config, to_hf
from lam_jax.formats.load_backbone import load_backbone
from lam_jax.formats.safetensors_io import CheckpointError
from lam_jax.formats.save_backbone import save_backbone
from lam_jax.models.families import FAMILIES, PRESETS, family_of, spec_of
from lam_jax.models.qwen3_vl.config import Qwen3VLConfig, TextConfig, VisionConfig
from lam_jax.models.qwen3_vl.model import Qwen3VL
from lam_jax.nn.weight import count
from lam_jax.parallel import ROLLOUT, TRAIN, make_mesh
from tests import tiny
from tests.formats import made_qwen3 as made
from tests.formats.made_checkpoint import BF16

TINY = Qwen3VLConfig(
    TextConfig(256, 32, 48, layers=3, heads=4, kv_heads=2, mrope_sections=(4, 2, 2), head_dim=16, tied=False),
    VisionConfig(16, 24, layers=3, heads=2, out_width=32, table_side=5, deepstack_layers=(0, 2), patch=4),
    **{"pad_id": 249, "eos_id": 251, "vision_start_id": 252, "vision_end_id": 253, "image_id": 254, "video_id": 255},
    compute_dtype="bfloat16",
)
TIED = dataclasses.replace(TINY, text=dataclasses.replace(TINY.text, tied=True))
# Of the published weights, in millions.
MILLIONS = {"qwen3_vl_2b": 2128, "qwen3_vl_4b": 4438, "qwen3_vl_8b": 8767}


def one_device():
    return make_mesh((1, 1, 1))


def test_every_weight_is_the_tensor_of_its_name(tmp_path: Path):
    tensors = made.tensors(TINY)
    model = load_backbone(made.write(tmp_path / "hf", TINY, tensors, shards=2), one_device(), TRAIN)
    assert isinstance(model, Qwen3VL)
    assert model.config == TINY

    def check(ours, name):
        np.testing.assert_array_equal(np.asarray(ours), tensors[name].astype(np.float32), err_msg=name)

    for i in range(3):
        at = f"model.language_model.layers.{i}"
        check(model.blocks.query_norm.scale[i], f"{at}.self_attn.q_norm.weight")
        check(model.blocks.key_norm.scale[i], f"{at}.self_attn.k_norm.weight")
        check(model.blocks.output.kernel[i].T, f"{at}.self_attn.o_proj.weight")
        check(model.vision.blocks.mlp.up.bias[i], f"model.visual.blocks.{i}.mlp.linear_fc1.bias")
        check(model.vision.blocks.attention_norm.bias[i], f"model.visual.blocks.{i}.norm1.bias")
    for i in range(2):
        at = f"model.visual.deepstack_merger_list.{i}"
        check(model.vision.features.norm.scale[i], f"{at}.norm.weight")
        check(model.vision.features.mlp.down.kernel[i].T, f"{at}.linear_fc2.weight")
    check(model.vision.table, "model.visual.pos_embed.weight")
    check(model.vision.merger.mlp.up.kernel.T, "model.visual.merger.linear_fc1.weight")
    check(np.asarray(model.vision.patch_embed.kernel).T.reshape(16, 3, 2, 4, 4), "model.visual.patch_embed.proj.weight")
    check(model.lm_head, "lm_head.weight")


@pytest.mark.parametrize("config", [TINY, TIED], ids=["untied", "tied"])
def test_a_saved_folder_has_the_tensors_it_was_loaded_from(tmp_path: Path, config):
    tensors = made.tensors(config)
    source = made.write(tmp_path / "hf", config, tensors)
    model = load_backbone(source, one_device(), ROLLOUT, jnp.bfloat16)
    save_backbone(model, tmp_path / "out", base=json.loads((source / "config.json").read_text()))
    found = load_file(tmp_path / "out" / "model.safetensors")
    assert found.keys() == tensors.keys()
    for name, value in tensors.items():
        assert found[name].dtype == BF16
        assert found[name].tobytes() == value.tobytes(), name
    ours, theirs = (json.loads((folder / "config.json").read_text()) for folder in (tmp_path / "out", source))
    assert {key: value for key, value in ours.items() if key not in ("compute_dtype", "torch_dtype", "dtype")} == theirs
    assert read_config(tmp_path / "out") == config


@pytest.mark.parametrize("shards", [1, 3])
def test_conversion_there_and_back_is_byte_for_byte(tmp_path: Path, shards):
    source = made.write(tmp_path / "hf", TINY, made.tensors(TINY), shards)
    convert(source, tmp_path / "ours")
    manifest = read_manifest(tmp_path / "ours")
    assert manifest.backbone == TINY
    assert isinstance(manifest.specs()["backbone"], Qwen3VL)
    convert(tmp_path / "ours", tmp_path / "back")
    names = sorted(path.name for path in source.iterdir())
    assert sorted(path.name for path in (tmp_path / "back").iterdir()) == names
    for name in names:
        assert (tmp_path / "back" / name).read_bytes() == (source / name).read_bytes(), name


def test_an_agent_with_latent_modules_is_saved_and_read(tmp_path: Path):
    agent = tiny.agent(tiny.QWEN3)
    save_checkpoint(tmp_path / "ours", agent.backbone, agent.latent)
    assert json.loads((tmp_path / "ours" / "lam_jax.json").read_text())["backbone"]["family"] == "qwen3_vl"
    backbone, latent = load_checkpoint(tmp_path / "ours", one_device(), TRAIN)
    chex.assert_trees_all_equal((agent.backbone, agent.latent), (backbone, latent))
    assert backbone.config == tiny.QWEN3


def test_folders_of_the_first_family_name_no_family(tmp_path: Path):
    save_checkpoint(tmp_path / "ours", tiny.agent().backbone)
    path = tmp_path / "ours" / "lam_jax.json"
    values = json.loads(path.read_text())
    assert "family" not in values["backbone"]
    assert read_manifest(tmp_path / "ours").backbone == tiny.CONFIG
    values["backbone"]["family"] = "llava"
    path.write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match="family 'llava', expected one of qwen2_5_vl, qwen3_vl"):
        read_manifest(tmp_path / "ours")


@pytest.mark.parametrize("mesh", [(1, 1, 1), (2, 2, 2)], ids=str)
def test_weights_are_loaded_sharded(tmp_path: Path, mesh):
    model = load_backbone(made.write(tmp_path / "hf", TIED, made.tensors(TIED)), make_mesh(mesh), TRAIN)
    whole = load_backbone(tmp_path / "hf", one_device(), TRAIN)
    chex.assert_trees_all_equal(*(jax.tree.map(np.asarray, x) for x in (model, whole)))
    size = model.blocks.query.kernel.sharding.shard_shape(model.blocks.query.kernel.shape)
    assert size == (3, 32 // mesh[1], 64 // mesh[2])


@pytest.mark.parametrize("name", MILLIONS)
def test_presets_are_the_published_models(name):
    config = PRESETS[name]
    assert round(count(spec_of(config)) / 1e6) == pytest.approx(MILLIONS[name], abs=1)
    assert family_of(config).name == "qwen3_vl"
    assert config.vision.patch_size == 1536
    assert from_hf(to_hf(config, "bfloat16")) == config
    assert from_hf(made.config_json(config)) == config


REFUSED = (
    ({"text_config.attention_bias": True}, "attention_bias is True, but only False"),
    ({"text_config.rope_scaling.mrope_interleaved": False}, "mrope_interleaved is False"),
    ({"text_config.rope_scaling.rope_type": "yarn"}, "rope type 'yarn' is not supported"),
    ({"vision_config.hidden_act": "silu"}, "vision hidden_act is 'silu'"),
    ({"vision_config.num_position_embeddings": 24}, "num_position_embeddings is 24, expected a square"),
    ({"vision_config.rope_parameters": {"rope_type": "axial", "rope_theta": 1e6}}, "vision rope_theta is 1000000.0"),
    ({"model_type": "qwen3_vl_moe"}, "'qwen3_vl_moe'.*expected one of Qwen2.5-VL .*Qwen3-VL"),
)


@pytest.mark.parametrize(("change", "message"), REFUSED)
def test_configs_that_cannot_be_run_are_refused(tmp_path: Path, change, message):
    values = copy.deepcopy(made.config_json(TINY))
    for path, value in change.items():
        *parts, last = path.split(".")
        at = values
        for part in parts:
            at = at[part]
        at[last] = value
    (tmp_path / "config.json").write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match=message):
        read_config(tmp_path)


def test_what_a_config_leaves_out_is_as_in_transformers():
    """transformers' own classes, which need no torch, say what the defaults are."""
    from transformers import Qwen3VLConfig as Theirs

    theirs = Theirs(text_config={}, vision_config={"out_hidden_size": 4096})
    sparse = {key: getattr(theirs.text_config, key) for key in ("vocab_size", "hidden_size", "intermediate_size")}
    sparse |= {key: getattr(theirs.text_config, key) for key in ("num_hidden_layers", "num_attention_heads")}
    ours = from_hf({"model_type": "qwen3_vl", "text_config": sparse, "vision_config": {"out_hidden_size": 4096}})
    text, vision = theirs.text_config, theirs.vision_config
    assert (ours.text.kv_heads, ours.text.head_dim) == (text.num_key_value_heads, text.head_dim)
    assert ours.text.rope_theta == text.rope_parameters["rope_theta"]
    assert ours.text.norm_epsilon == text.rms_norm_eps
    assert ours.text.tied == theirs.tie_word_embeddings
    assert (ours.vision.layers, ours.vision.width, ours.vision.hidden) == (
        vision.depth,
        vision.hidden_size,
        vision.intermediate_size,
    )
    assert ours.vision.table_side**2 == vision.num_position_embeddings
    assert ours.vision.deepstack_layers == tuple(vision.deepstack_visual_indexes)
    assert (ours.vision.patch, ours.vision.temporal, ours.vision.merge) == (16, 2, 2)


def test_every_family_has_a_format():
    assert FORMATS.keys() == FAMILIES.keys()
