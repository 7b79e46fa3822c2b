"""The choice of a mesh and the refusal of one that does not fit, before anything is compiled."""

import dataclasses

import pytest

from lam_jax.latent.agent import Agent
from lam_jax.latent.config import LATENT_PRESETS
from lam_jax.models.qwen2_5_vl.presets import PRESETS
from lam_jax.nn.weight import Weight
from lam_jax.parallel.choose_mesh import Load, check_mesh, choose_mesh, parse_shape

GIB = 2**30


def load(preset: str, prompts: int = 64, samples: int = 8, rows: int = 256) -> Load:
    specs = Agent.spec(PRESETS[preset], LATENT_PRESETS[preset])
    return Load(specs, trained=1_000_000_000, rows=rows, prompts=prompts, samples=samples)


def test_a_pod_slice_for_the_small_model():
    """16 chips of 16 GiB, 4 prompts x 8: two shards of the weights of rollouts, eight of the training state."""
    choice = choose_mesh(load("qwen2_5_vl_3b", prompts=4, rows=16), 16, memory=16 * GIB)
    assert choice.shape == (2, 4, 2)
    assert "40% of 16 GiB from tensor 2" in str(choice)
    assert "from fsdp x tensor 8" in str(choice)


def test_more_devices_than_prompts_go_to_samples_then_to_weights():
    few = choose_mesh(load("qwen2_5_vl_3b", prompts=2, rows=256), 64, memory=64 * GIB)
    assert few.shape[0] <= 2
    assert few.shape[1] == 8
    assert few.shape == (2, 8, 4)


def test_without_a_memory_limit_data_takes_all_devices():
    assert choose_mesh(load("tiny", rows=8, prompts=8), 8).shape == (8, 1, 1)
    padded = choose_mesh(load("tiny", rows=8, prompts=6), 8)
    assert padded.shape[0] <= 6


def test_heads_are_not_cut():
    """7B has 28 heads: 8 tensor shards would cut them though 28 * 128 divides; 4 kv heads are replicated instead."""
    seven = load("qwen2_5_vl_7b")
    check_mesh((16, 4, 4), seven)
    with pytest.raises(ValueError, match=r"'heads' .* of size 28 .* one of 1, 2, 4, 7, 14, 28") as error:
        check_mesh((8, 4, 8), seven)
    assert "kv_heads" not in str(error.value)
    assert "vision" not in str(error.value)
    check_mesh((2, 1, 4), dataclasses.replace(load("tiny"), rows=8))  # 2 kv heads on 4 shards


def test_all_that_does_not_fit_is_named_with_a_fix():
    with pytest.raises(ValueError, match="does not fit") as error:
        check_mesh((2, 3, 1), load("tiny", rows=16, samples=8))
    text = str(error.value)
    assert "'batch' (rows of a batch) of size 16" in text
    assert "or rows of a batch a multiple of 6" in text
    assert "'samples' (samples of a prompt) of size 8" in text
    assert "'embed' (width) of size 128" in text
    with pytest.raises(ValueError, match="No mesh of 3 devices divides everything"):
        choose_mesh(Load(Weight((4, 4), ("embed", "mlp")), rows=4), 3)


def test_too_little_memory_is_refused():
    with pytest.raises(ValueError, match=r"2 devices of .* are too few"):
        choose_mesh(load("qwen2_5_vl_7b", rows=2), 2, memory=16 * GIB)


def test_a_shape_is_read_from_text():
    assert parse_shape("2,4,1") == parse_shape("2x4x1") == parse_shape("data=2,fsdp=4") == (2, 4, 1)
    for wrong in ("2,4", "2,0,1", "rows=2", "data=", "fast"):
        with pytest.raises(ValueError, match="expected three positive sizes"):
            parse_shape(wrong)
