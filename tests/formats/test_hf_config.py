"""QwenConfig from and to Hugging Face configs, checked against the published files and transformers' own class."""

import copy
import json
from pathlib import Path
from typing import Any, cast

import pytest

from lam_jax.formats.hf_config import from_hf, read_config, to_hf
from lam_jax.formats.qwen2_5_vl import from_hf_dicts
from lam_jax.models.qwen2_5_vl.config import VisionConfig
from lam_jax.models.qwen2_5_vl.model import QwenVL
from lam_jax.models.qwen2_5_vl.presets import PRESETS
from lam_jax.nn.weight import count

# The settings of Qwen/Qwen2.5-VL-{3B,7B}-Instruct's config.json that decide shapes.
_SHARED = {
    "architectures": ["Qwen2_5_VLForConditionalGeneration"],
    "bos_token_id": 151643,
    "eos_token_id": 151645,
    "vision_start_token_id": 151652,
    "vision_end_token_id": 151653,
    "image_token_id": 151655,
    "video_token_id": 151656,
    "hidden_act": "silu",
    "model_type": "qwen2_5_vl",
    "rms_norm_eps": 1e-06,
    "rope_theta": 1000000.0,
    "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
    "torch_dtype": "bfloat16",
    "use_sliding_window": False,
}
_VISION = {
    "depth": 32,
    "hidden_act": "silu",
    "hidden_size": 1280,
    "intermediate_size": 3420,
    "num_heads": 16,
    "in_chans": 3,
    "patch_size": 14,
    "spatial_merge_size": 2,
    "window_size": 112,
    "fullatt_block_indexes": [7, 15, 23, 31],
    "temporal_patch_size": 2,
}
PUBLISHED = {
    "qwen2_5_vl_3b": {
        **_SHARED,
        "hidden_size": 2048,
        "intermediate_size": 11008,
        "num_attention_heads": 16,
        "num_hidden_layers": 36,
        "num_key_value_heads": 2,
        "tie_word_embeddings": True,
        "vocab_size": 151936,
        "vision_config": {**_VISION, "out_hidden_size": 2048},
    },
    "qwen2_5_vl_7b": {
        **_SHARED,
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_attention_heads": 28,
        "num_hidden_layers": 28,
        "num_key_value_heads": 4,
        "tie_word_embeddings": False,
        "vocab_size": 152064,
        "vision_config": {**_VISION, "out_hidden_size": 3584},
    },
}


@pytest.mark.parametrize(("name", "parameters"), [("qwen2_5_vl_3b", 3_754_622_976), ("qwen2_5_vl_7b", 8_292_166_656)])
def test_published_configs_are_the_presets_and_have_the_published_size(name: str, parameters: int):
    config = from_hf(PUBLISHED[name])
    assert config == PRESETS[name]
    assert count(QwenVL.spec(config)) == parameters


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_every_preset_survives_being_written_and_read(name: str, tmp_path: Path):
    (tmp_path / "config.json").write_text(json.dumps(to_hf(PRESETS[name], "bfloat16")))
    assert read_config(tmp_path) == PRESETS[name]


@pytest.mark.parametrize("name", ["small", "qwen2_5_vl_7b"])
def test_transformers_reads_our_config_and_we_read_what_it_saves(name: str):
    from transformers import Qwen2_5_VLConfig

    theirs = cast(Any, Qwen2_5_VLConfig.from_dict(to_hf(PRESETS[name], "float32")))
    preset = PRESETS[name]
    assert theirs.text_config.num_key_value_heads == preset.text.kv_heads
    assert theirs.text_config.rms_norm_eps == preset.text.norm_epsilon
    assert theirs.text_config.rope_parameters["mrope_section"] == list(preset.text.mrope_sections)
    assert theirs.vision_config.window_size == preset.vision.window
    assert theirs.tie_word_embeddings == preset.text.tied
    nested = json.loads(theirs.to_json_string())
    assert "text_config" in nested
    assert from_hf(nested) == preset


# What no config.json may lack. Everything else has transformers' default where its key is absent.
_REQUIRED = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
SPARSE = {
    "model_type": "qwen2_5_vl",
    **{name: PUBLISHED["qwen2_5_vl_7b"][name] for name in _REQUIRED},
    "num_attention_heads": 32,
    "rope_scaling": {"mrope_section": [16, 20, 20]},
    "vision_config": {"hidden_size": 1280},
}


@pytest.mark.parametrize("nested", [False, True], ids=["flat", "nested"])
def test_absent_keys_have_the_defaults_of_transformers(nested: bool):
    """Heads are 32, so that transformers' 8 key-value heads are told from one for each head."""
    from transformers import Qwen2_5_VLConfig

    apart = ("model_type", "vision_config")
    top = {name: SPARSE[name] for name in apart}
    below = {name: value for name, value in SPARSE.items() if name not in apart}
    sparse = {**top, "text_config": below} if nested else SPARSE
    ours, theirs = from_hf(copy.deepcopy(sparse)), cast(Any, Qwen2_5_VLConfig.from_dict(copy.deepcopy(sparse)))
    text, vision = theirs.text_config, theirs.vision_config
    assert ours.text.kv_heads == text.num_key_value_heads
    assert ours.text.norm_epsilon == text.rms_norm_eps
    assert ours.text.rope_theta == text.rope_parameters["rope_theta"]
    assert ours.text.tied == theirs.tie_word_embeddings
    assert (text.hidden_act, text.use_sliding_window, vision.hidden_act) == ("silu", False, "silu")  # the only ones run
    assert (text.rope_parameters["rope_type"], theirs.dtype, ours.compute_dtype) == ("default", None, "float32")
    assert ours.vision == VisionConfig(
        width=1280,
        hidden=vision.intermediate_size,
        layers=vision.depth,
        heads=vision.num_heads,
        full_layers=tuple(vision.fullatt_block_indexes),
        window=vision.window_size,
        out_width=vision.out_hidden_size,
        patch=vision.patch_size,
        temporal=vision.temporal_patch_size,
        merge=vision.spatial_merge_size,
        channels=vision.in_channels,
    )
    assert ours.image_id == theirs.image_token_id
    assert ours.video_id == theirs.video_token_id
    assert ours.vision_start_id == theirs.vision_start_token_id
    assert ours.vision_end_id == theirs.vision_end_token_id
    assert ours.eos_id == text.eos_token_id
    assert (text.pad_token_id, ours.pad_id) == (None, text.bos_token_id)


def test_defaults_are_these_numbers():
    """Where transformers' defaults move, checkpoints that were written before still mean these."""
    text = from_hf(SPARSE).text
    assert (text.kv_heads, text.norm_epsilon, text.rope_theta, text.tied) == (8, 1e-5, 1e6, False)


def test_key_value_heads_of_null_are_one_for_each_head():
    from transformers import Qwen2_5_VLConfig

    config = {**SPARSE, "num_key_value_heads": None}
    theirs = cast(Any, Qwen2_5_VLConfig.from_dict(copy.deepcopy(config)))
    assert theirs.text_config.num_key_value_heads == 32
    assert from_hf(config).text.kv_heads == 32


@pytest.mark.parametrize("name", _REQUIRED)
def test_sizes_have_no_default(name: str):
    with pytest.raises(ValueError, match=rf"text config lacks \['{name}'\]"):
        from_hf({key: value for key, value in SPARSE.items() if key != name})


def test_dictionaries_beside_golden_vectors_are_understood():
    hf = PUBLISHED["qwen2_5_vl_3b"]
    ids = {"pad": 1, "eos": 2, "image": 3, "video": 4, "vstart": 5, "vend": 6}
    config = from_hf_dicts(hf, hf["vision_config"], ids, tied=False)
    assert (config.pad_id, config.eos_id, config.image_id) == (1, 2, 3)
    assert (config.video_id, config.vision_start_id, config.vision_end_id) == (4, 5, 6)
    assert not config.text.tied


def test_a_tied_flag_that_older_transformers_put_into_text_config_counts():
    hf = dict(PUBLISHED["qwen2_5_vl_3b"])
    del hf["tie_word_embeddings"]
    text = {key: value for key, value in hf.items() if key != "vision_config"}
    assert from_hf({**hf, "text_config": {**text, "tie_word_embeddings": True}}).text.tied
    assert not from_hf({**hf, "text_config": text}).text.tied


@pytest.mark.parametrize("below", [True, False, None])
@pytest.mark.parametrize("top", [True, False, None])
def test_the_tie_flag_in_all_nine_places(top, below):
    """Above, in text_config, in both or in neither: a head is tied where one of them says so, as its weights tell."""
    hf = dict(PUBLISHED["qwen2_5_vl_3b"])
    del hf["tie_word_embeddings"]
    text = {key: value for key, value in hf.items() if key != "vision_config"}
    text |= {} if below is None else {"tie_word_embeddings": below}
    hf |= {"text_config": text} | ({} if top is None else {"tie_word_embeddings": top})
    assert from_hf(hf).text.tied is bool(top or below)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "qwen2_vl", "architectures": ["Qwen2VLForConditionalGeneration"]}, "wrong architecture"),
        (
            {"model_type": "llama"},
            "'llama'.*expected one of Qwen2.5-VL .model_type 'qwen2_5_vl'., Qwen3-VL .model_type 'qwen3_vl'.",
        ),
        ({"use_sliding_window": True}, "use_sliding_window is True"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
        ({"rope_scaling": {"type": "yarn", "mrope_section": [16, 24, 24]}}, "rope type 'yarn'"),
        ({"rope_scaling": None}, "no mrope_section"),
        ({"vision_config": {}}, r"vision config lacks \['hidden_size'\]"),
        ({"num_attention_heads": 15}, "must be a multiple of heads 15"),
    ],
)
def test_configs_that_cannot_be_run_are_refused(change: dict, message: str, tmp_path: Path):
    (tmp_path / "config.json").write_text(json.dumps({**PUBLISHED["qwen2_5_vl_3b"], **change}))
    with pytest.raises(ValueError, match=message) as error:
        read_config(tmp_path)
    assert str(tmp_path / "config.json") in str(error.value)


def test_missing_and_damaged_config_files(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"config.json is missing"):
        read_config(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": ')
    with pytest.raises(ValueError, match=r"config\.json"):
        read_config(tmp_path)
