"""Every listed end token ends an answer, whatever the order; rows end their turns in <|im_end|>."""

import json

import pytest

from lam_jax.agents.export import generation_config
from lam_jax.formats.agent_folder import Manifest, read_manifest
from lam_jax.formats.hf_config import from_hf, read_config, to_hf
from lam_jax.formats.safetensors_io import CheckpointError
from lam_jax.models.qwen2_5_vl.presets import PRESETS
from lam_jax.rollout.sampling import SamplingConfig
from tests.formats.test_hf_config import PUBLISHED

IM_END, END_OF_TEXT = 151645, 151643
CONFIG = PUBLISHED["qwen2_5_vl_3b"]


@pytest.mark.parametrize("ids", [[IM_END, END_OF_TEXT], [END_OF_TEXT, IM_END]])
@pytest.mark.parametrize("place", ["config", "text_config", "generation"])
def test_the_order_of_the_list_does_not_matter(ids, place):
    config, generation = dict(CONFIG), None
    if place == "config":
        config["eos_token_id"] = ids
    elif place == "generation":
        generation = {"eos_token_id": ids}
    else:
        text = {key: value for key, value in config.items() if key not in ("vision_config", "eos_token_id")}
        config = {**config, "text_config": {**text, "eos_token_id": ids}}
    found = from_hf(config, generation)
    assert (found.eos_id, found.eos_ids) == (IM_END, (IM_END, END_OF_TEXT))


def test_an_id_alone_ends_alone():
    found = from_hf(CONFIG)
    assert (found.eos_id, found.eos_ids) == (IM_END, (IM_END,))
    assert to_hf(found, "bfloat16")["eos_token_id"] == IM_END


@pytest.mark.parametrize("listed", [IM_END, END_OF_TEXT, [END_OF_TEXT], [151644, END_OF_TEXT]])
@pytest.mark.parametrize("file", ["tokenizer_config.json", "tokenizer.json", "added_tokens.json"])
def test_the_tokenizer_says_which_of_them_ends_a_turn(tmp_path, listed, file):
    """A config that lists <|endoftext|> alone, say, still has chats whose turns end in <|im_end|>."""
    contents = {
        "tokenizer_config.json": {"added_tokens_decoder": {str(IM_END): {"content": "<|im_end|>", "special": False}}},
        "tokenizer.json": {
            "added_tokens": [{"id": END_OF_TEXT, "content": "?"}, {"id": IM_END, "content": "<|im_end|>"}]
        },
        "added_tokens.json": {"<|im_end|>": IM_END},
    }
    (tmp_path / "config.json").write_text(json.dumps({**CONFIG, "eos_token_id": listed}))
    (tmp_path / file).write_text(json.dumps(contents[file]))
    found = read_config(tmp_path)
    ids = listed if isinstance(listed, list) else [listed]
    assert found.eos_id == IM_END
    assert set(found.eos_ids) == {IM_END, *ids}


def test_both_files_of_a_folder_count(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [END_OF_TEXT, 151644]}))
    assert read_config(tmp_path).eos_ids == (IM_END, END_OF_TEXT, 151644)


@pytest.mark.parametrize("bad", ["151645", [IM_END, None], True, -1, [1.5], {}])
def test_something_else_than_ids_is_refused(tmp_path, bad):
    (tmp_path / "config.json").write_text(json.dumps({**CONFIG, "eos_token_id": bad}))
    with pytest.raises(
        CheckpointError, match=r"config.json: eos_token_id is .*, expected an id such as 151645, or a list"
    ):
        read_config(tmp_path)


def test_an_id_outside_the_vocabulary_is_refused():
    with pytest.raises(ValueError, match="other_eos_ids holds 151936, outside the vocabulary of 151936"):
        from_hf({**CONFIG, "eos_token_id": [IM_END, 151936]})


def test_a_broken_generation_config_is_named(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    (tmp_path / "generation_config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"generation_config.json is no JSON"):
        read_config(tmp_path)


def test_all_ids_survive_writing(tmp_path):
    found = from_hf({**CONFIG, "eos_token_id": [END_OF_TEXT, IM_END]})
    assert to_hf(found, "bfloat16")["eos_token_id"] == [IM_END, END_OF_TEXT]
    assert from_hf(to_hf(found, "bfloat16")) == found
    assert generation_config(SamplingConfig(), 8, found)["eos_token_id"] == [IM_END, END_OF_TEXT]
    (tmp_path / "lam_jax.json").write_text(Manifest(found).to_json())
    assert read_manifest(tmp_path).backbone == found


def test_checkpoints_of_before_have_one(tmp_path):
    values = json.loads(Manifest(PRESETS["tiny"]).to_json())
    del values["backbone"]["other_eos_ids"]
    (tmp_path / "lam_jax.json").write_text(json.dumps(values))
    assert read_manifest(tmp_path).backbone == PRESETS["tiny"]
