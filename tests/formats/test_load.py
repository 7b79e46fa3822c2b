"""Loading a backbone from Hugging Face files: values, dtypes, both naming conventions, shardings, streaming."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lam_jax.formats import load_backbone as load
from lam_jax.formats import safetensors_io
from lam_jax.formats.load_backbone import load_backbone
from lam_jax.formats.save_backbone import save_backbone
from lam_jax.models.inputs import Batch, Images
from lam_jax.models.positions import image_layout, mrope_positions
from lam_jax.models.qwen2_5_vl.config import QwenConfig, TextConfig, VisionConfig
from lam_jax.models.qwen2_5_vl.model import QwenVL
from lam_jax.models.qwen2_5_vl.presets import PRESETS
from lam_jax.parallel import ROLLOUT, TRAIN, make_mesh, use
from tests.formats import made_checkpoint as made
from tests.host_devices import several_devices

SMALL = PRESETS["small"]
TINY = QwenConfig(
    TextConfig(256, width=32, hidden=48, layers=3, heads=4, kv_heads=2, mrope_sections=(1, 1, 2), tied=False),
    VisionConfig(16, hidden=24, layers=2, heads=2, full_layers=(1,), window=56, out_width=32),
    **{"pad_id": 249, "eos_id": 251, "vision_start_id": 252, "vision_end_id": 253, "image_id": 254, "video_id": 255},
)


def one_device():
    return make_mesh((1, 1, 1))


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> QwenVL:
    tensors = made.tensors(TINY, np.dtype(np.float32))
    return load_backbone(made.write(tmp_path_factory.mktemp("made") / "hf", TINY, tensors), one_device(), TRAIN)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, made.BF16], ids=str)
def test_every_weight_is_the_tensor_of_its_name(tmp_path: Path, dtype):
    tensors = made.tensors(TINY, np.dtype(dtype))
    model = load_backbone(made.write(tmp_path / "hf", TINY, tensors), one_device(), TRAIN)

    def check(ours, name):
        assert ours.dtype == jnp.float32
        np.testing.assert_array_equal(np.asarray(ours), tensors[name].astype(np.float32))

    assert model.config == TINY
    check(model.embedding, "model.embed_tokens.weight")
    check(model.lm_head, "lm_head.weight")
    check(model.norm.scale, "model.norm.weight")
    for i in range(TINY.text.layers):
        check(model.blocks.query.kernel[i].T, f"model.layers.{i}.self_attn.q_proj.weight")
        check(model.blocks.key.bias[i], f"model.layers.{i}.self_attn.k_proj.bias")
        check(model.blocks.mlp.down.kernel[i].T, f"model.layers.{i}.mlp.down_proj.weight")
        check(model.blocks.mlp_norm.scale[i], f"model.layers.{i}.post_attention_layernorm.weight")
    for i in range(TINY.vision.layers):
        check(model.vision.blocks.qkv.kernel[i].T, f"visual.blocks.{i}.attn.qkv.weight")
        check(model.vision.blocks.mlp.gate.bias[i], f"visual.blocks.{i}.mlp.gate_proj.bias")
    check(model.vision.merger_up.kernel.T, "visual.merger.mlp.0.weight")
    kernel = np.asarray(model.vision.patch_embed.kernel).T.reshape(16, 3, 2, 14, 14)
    check(kernel, "visual.patch_embed.proj.weight")


def test_both_namings_and_layouts_of_config_load_the_same(tmp_path: Path):
    tensors = made.tensors(TINY)
    old = made.write(tmp_path / "old", TINY, tensors, shards=3)
    new = made.write(tmp_path / "new", TINY, {made.today(n): t for n, t in tensors.items()}, nested=True)
    a, b = (load_backbone(folder, one_device(), TRAIN) for folder in (old, new))
    assert a.config == b.config
    chex.assert_trees_all_equal(a, b)


def test_dtype_of_the_weights_is_chosen_by_the_caller(tmp_path: Path):
    tensors = made.tensors(TINY)
    model = load_backbone(made.write(tmp_path / "hf", TINY, tensors), one_device(), ROLLOUT, jnp.bfloat16)
    assert {x.dtype for x in jax.tree.leaves(model)} == {jnp.dtype(jnp.bfloat16)}
    np.testing.assert_array_equal(np.asarray(model.embedding), tensors["model.embed_tokens.weight"])


def test_streamed_loading_equals_loading_at_once(tmp_path: Path, monkeypatch):
    folder = made.write(tmp_path / "hf", TINY, made.tensors(TINY), shards=2)
    mesh = make_mesh((2, 2, 2))
    at_once = load_backbone(folder, mesh, TRAIN)
    monkeypatch.setattr(load, "SMALL_BYTES", 0)
    monkeypatch.setattr(safetensors_io, "CHUNK_BYTES", 1000)  # several chunks a tensor, the last one smaller
    streamed = load_backbone(folder, mesh, TRAIN)
    chex.assert_trees_all_equal(at_once, streamed)
    jax.tree.map(lambda a, b: a.sharding == b.sharding or pytest.fail(f"{a.sharding} {b.sharding}"), at_once, streamed)


def batch(config: QwenConfig) -> Batch:
    grid = (1, 6, 8)
    tokens = np.full((8, 24), 5, np.int32) + np.arange(24, dtype=np.int32)[None] + np.arange(8, dtype=np.int32)[:, None]
    tokens[:, 3:17] = [config.vision_start_id, *[config.image_id] * 12, config.vision_end_id]
    mask = np.ones(tokens.shape, bool)
    mask[1, :3] = False
    grids = [[grid]] * 8
    patch_hw, image_id, slots = image_layout(grids, config.vision).values()
    patches = np.random.default_rng(1).normal(size=(8, 48, 1176)).astype(np.float32)
    positions = mrope_positions(tokens, mask, grids, config)
    images = Images(*map(jnp.asarray, (patches, patch_hw, image_id, slots)))
    arrays = map(jnp.asarray, (tokens, mask, mask, mask, positions, np.ones(8, bool)))
    return Batch(*arrays, images=images)


def test_sharded_over_eight_devices_gives_the_logits_of_one(tmp_path: Path):
    """The `small` preset from three shards."""
    folder = made.write(tmp_path / "hf", SMALL, made.tensors(SMALL), shards=3)

    def logits(shape):
        mesh = make_mesh(shape)
        model = load_backbone(folder, mesh, TRAIN)
        with use(mesh, TRAIN):
            return model, np.asarray(jax.jit(lambda m, b: m.logits(m.states(b)))(model, batch(SMALL)))

    _, expected = logits((1, 1, 1))
    model, found = logits((2, 2, 2))
    kernel = model.blocks.mlp.gate.kernel
    assert kernel.sharding.shard_shape(kernel.shape) == (6, 256 // 2, 704 // 2)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    assert np.std(expected) > 0.01, "logits that do not vary would equal anything"


def test_a_device_reads_only_its_own_slices(tmp_path: Path, monkeypatch):
    folder = made.write(tmp_path / "hf", TINY, made.tensors(TINY))
    read = []
    original = safetensors_io.SafetensorsFile.read

    def counting(self, name, index=()):
        array = original(self, name, index)
        read.append((name, array.size))
        return array

    monkeypatch.setattr(safetensors_io.SafetensorsFile, "read", counting)
    load_backbone(folder, make_mesh((1, 2, 1)), TRAIN)
    name = "model.layers.1.mlp.gate_proj.weight"
    assert [size for n, size in read if n == name] == [48 * 32 // 2] * 2


def test_saved_backbone_loads_equal(tmp_path: Path, model: QwenVL):
    (tmp_path / "tokenizer.json").write_text("{}")
    save_backbone(model, tmp_path / "one", files={"tokenizer.json": tmp_path / "tokenizer.json"})
    save_backbone(model, tmp_path / "shards", max_shard_bytes=50_000, dtype=jnp.bfloat16)
    assert (tmp_path / "one" / "tokenizer.json").read_text() == "{}"
    assert len(list((tmp_path / "shards").glob("model-*.safetensors"))) > 1
    one = load_backbone(tmp_path / "one", one_device(), TRAIN)
    assert one.config == TINY
    chex.assert_trees_all_equal(one, model)
    half = load_backbone(tmp_path / "shards", one_device(), TRAIN, jnp.bfloat16)
    chex.assert_trees_all_equal(half, jax.tree.map(lambda x: x.astype(jnp.bfloat16), model))


def test_saving_a_sharded_backbone_writes_the_same_bytes(tmp_path: Path, model: QwenVL):
    save_backbone(model, tmp_path / "one")
    save_backbone(load_backbone(tmp_path / "one", make_mesh((1, 2, 4)), TRAIN), tmp_path / "eight")
    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "eight" / name).read_bytes()


def test_saved_names_and_shapes_are_the_published_ones(tmp_path: Path, model: QwenVL):
    from safetensors.numpy import load_file

    save_backbone(model, tmp_path / "hf", dtype=jnp.float16)
    found = load_file(tmp_path / "hf" / "model.safetensors")
    assert {name: array.shape for name, array in found.items()} == made.shapes(TINY)
    assert {array.dtype for array in found.values()} == {np.dtype(np.float16)}


def test_nothing_is_overwritten_and_a_failed_save_leaves_nothing(tmp_path: Path, model: QwenVL):
    save_backbone(model, tmp_path / "hf")
    with pytest.raises(FileExistsError, match="exists already"):
        save_backbone(model, tmp_path / "hf")
    with pytest.raises(FileNotFoundError):
        save_backbone(model, tmp_path / "other", files={"tokenizer.json": tmp_path / "absent"})
    assert [path.name for path in tmp_path.iterdir()] == ["hf"]


PEAK = """
import json, sys, threading
import jax, jax.numpy as jnp
from lam_jax.parallel import TRAIN, make_mesh
from lam_jax.formats.load_backbone import load_backbone

def status(key):
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith(key))

jax.block_until_ready(jnp.zeros(8) + 1)
before = status("VmRSS")
open("/proc/self/clear_refs", "w").write("5")  # resets the high-water mark
model = load_backbone(sys.argv[1], make_mesh((1, 2, 2)), TRAIN, jnp.float32)
result = sum(shard.data.nbytes for x in jax.tree.leaves(model) for shard in x.addressable_shards)
print(json.dumps({"over": status("VmHWM") - before - result, "result": result}))
"""


def test_peak_memory_stays_near_the_result(tmp_path: Path):
    """800 MB of weights in a sparse file; a stacked weight of 256 MB held twice would be that much over the result."""
    text = TextConfig(256, width=1024, hidden=8192, layers=8, heads=8, kv_heads=2, mrope_sections=(16, 24, 24))
    config = dataclasses.replace(TINY, text=text, vision=dataclasses.replace(TINY.vision, out_width=1024))
    folder = made.write(tmp_path / "hf", config, {})
    header = safetensors_io.header_text({n: (np.dtype("f4"), s) for n, s in made.shapes(config).items()}, {})
    size = sum(4 * int(np.prod(shape)) for shape in made.shapes(config).values())
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header.encode())
        file.truncate(8 + len(header) + size)
    settings = several_devices(4) | {"JAX_PLATFORMS": "cpu"}
    settings["PYTHONPATH"] = str(Path(__file__).parents[2])
    command = [sys.executable, "-c", PEAK, str(folder)]
    done = subprocess.run(command, env={**os.environ, **settings}, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert found["result"] > 800e6
    assert found["over"] < 240e6, f"{found['over'] / 1e6:.0f} MB above the result"
