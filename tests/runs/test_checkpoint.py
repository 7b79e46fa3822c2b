"""Checkpoints come back bit for bit, or are refused."""

import json
import logging
import resource
import shutil
from collections import namedtuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from lam_jax.errors import CheckpointMismatchError, DamagedCheckpointError, NoSpaceError
from lam_jax.parallel.checksum import checksums
from lam_jax.parallel.mesh import make_mesh
from lam_jax.runs import checkpoint
from lam_jax.runs.checkpoint import restore_checkpoint, save_checkpoint
from lam_jax.runs.record import read_record
from lam_jax.runs.retention import Checkpoints
from lam_jax.train.optimiser import OptimiserConfig, make_optimiser
from lam_jax.train.state import TrainState


def assert_same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        if checkpoint.is_key(x):
            x, y = jax.random.key_data(x), jax.random.key_data(y)
        assert np.asarray(x).dtype == np.asarray(y).dtype
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y))


@pytest.fixture
def tree(key):
    return {
        "w": jax.random.normal(key, (16, 24)),
        "half": jax.random.normal(key, (5, 3), jnp.bfloat16),
        "empty": jnp.zeros((0, 4)),
        "hole": None,
        "position": np.arange(7, dtype=np.int64),
        "count": 3,
        "seen": 2**40,
        "flags": (jnp.array([True, False]), jnp.uint8(200)),
    }


def largest_file(path):
    files = [file for file in (path / "arrays").rglob("*") if file.is_file() and file.parent.name == "d"]
    return max(files, key=lambda file: file.stat().st_size)


def flip_bit(file, place=0.6):
    data = bytearray(file.read_bytes())
    data[int(len(data) * place)] ^= 1 << 3
    file.write_bytes(bytes(data))


def test_train_state_comes_back_bit_for_bit(tmp_path, key):
    optimiser = make_optimiser(OptimiserConfig(1e-2), 10)
    state = TrainState.create({"w": jnp.ones((3, 2)), "frozen": None}, optimiser, key)
    for _ in range(3):
        state, _ = state.apply_gradients({"w": jnp.full((3, 2), 0.1), "frozen": None}, optimiser)
    save_checkpoint(tmp_path / "c", state, {"epoch": 2})
    fresh = TrainState.create({"w": jnp.zeros((3, 2)), "frozen": None}, optimiser, jax.random.key(9))
    restored, metadata = restore_checkpoint(tmp_path / "c", fresh)
    assert_same(restored, state)
    assert metadata == {"epoch": 2}


def test_all_kinds_of_leaves(tmp_path, tree):
    save_checkpoint(tmp_path / "c", tree)
    restored, _ = restore_checkpoint(tmp_path / "c", tree)
    assert_same(restored, tree)
    assert isinstance(restored["count"], int)
    assert isinstance(restored["position"], np.ndarray)


def test_restores_onto_another_mesh(tmp_path, key):
    def on(mesh, *spec):
        return NamedSharding(mesh, PartitionSpec(*spec))

    value = jax.random.normal(key, (8, 12))
    saved = {"w": jax.device_put(value, on(make_mesh((2, 2, 2)), "fsdp", "tensor")), "key": key}
    save_checkpoint(tmp_path / "c", saved)
    target = on(make_mesh((1, 2, 4)), None, "tensor")
    like = {"w": jax.ShapeDtypeStruct((8, 12), jnp.float32, sharding=target), "key": jax.random.key(1)}
    restored, _ = restore_checkpoint(tmp_path / "c", like)
    assert restored["w"].sharding == target
    np.testing.assert_array_equal(restored["w"], value)
    # A key that was bound to no device can still meet the mesh under jit.
    assert jax.jit(lambda w, k: w + jax.random.normal(k, w.shape))(restored["w"], restored["key"]).shape == (8, 12)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.int8, jnp.bool_])
def test_hash_depends_on_content_and_place_but_not_on_sharding(dtype, key, monkeypatch):
    monkeypatch.setattr("lam_jax.parallel.checksum.CHUNK", 32)  # several chunks even here
    value = (jax.random.normal(key, (4, 6, 8)) > 0).astype(dtype)
    mesh = make_mesh((2, 2, 2))
    placements = [PartitionSpec(), PartitionSpec("data", None, ("fsdp", "tensor")), PartitionSpec(None, "tensor")]
    arrays = {str(p): jax.device_put(value, NamedSharding(mesh, p)) for p in placements}
    found = set(checksums({**arrays, "numpy": np.asarray(value)}).values())
    assert len(found) == 1
    other = np.array(value)
    other[3, 5, 7] = 1 - other[3, 5, 7].astype(np.float32)
    swapped = np.array(value).reshape(-1)[::-1].reshape(value.shape)
    assert checksums({"other": other})["other"] not in found
    assert checksums({"swapped": swapped})["swapped"] not in found


def test_no_flipped_bit_comes_through(tmp_path, tree):
    save_checkpoint(tmp_path / "whole", tree)
    caught = 0
    # Orbax's files have parts that nothing reads, e.g. the index of each process before they are merged.
    for place in np.linspace(0.02, 0.98, 25):
        path = tmp_path / f"flip_{place:.2f}"
        shutil.copytree(tmp_path / "whole", path)
        flip_bit(largest_file(path), place)
        try:
            restored, _ = restore_checkpoint(path, tree)
        except DamagedCheckpointError:
            caught += 1
        else:
            assert_same(restored, tree)
    assert caught >= 12


def test_flipped_bit_that_orbax_does_not_see_names_the_array(tmp_path, monkeypatch):
    # Random bits do not compress: zstd stores them raw, and a flip in the middle is valid data.
    tree = {"noise": np.random.default_rng(0).integers(0, 2**32, 50_000, dtype=np.uint32)}
    save_checkpoint(tmp_path / "c", tree)
    flip_bit(largest_file(tmp_path / "c"), 0.5)
    with pytest.raises(DamagedCheckpointError, match="the content of 1 of 1 arrays changed, first 'noise'"):
        restore_checkpoint(tmp_path / "c", tree)
    monkeypatch.setattr(checkpoint, "checksums", lambda arrays: read_hashes(tmp_path / "c"))
    altered, _ = restore_checkpoint(tmp_path / "c", tree)
    assert (altered["noise"] != tree["noise"]).sum() == 1, "the damage would pass without the hash"


def read_hashes(path):
    return {name: entry["checksum"] for name, entry in read_record(path)["arrays"].items()}


def test_truncated_file_altered_record_and_missing_parts_are_detected(tmp_path, tree):
    save_checkpoint(tmp_path / "whole", tree)

    def damaged(name, change):
        path = tmp_path / name
        shutil.copytree(tmp_path / "whole", path)
        change(path)
        with pytest.raises(DamagedCheckpointError, match=name):
            restore_checkpoint(path, tree)

    damaged("truncated", lambda p: largest_file(p).write_bytes(largest_file(p).read_bytes()[:200]))
    damaged("no_arrays", lambda p: shutil.rmtree(p / "arrays"))
    damaged("no_manifest", lambda p: (p / "arrays" / "manifest.ocdbt").unlink())
    damaged("no_record", lambda p: shutil.rmtree(p / "record"))
    damaged("cut_record", lambda p: (p / "record" / "metadata").write_text('{"metadata": {'))
    damaged("altered_record", lambda p: edit_record(p, lambda r: r["metadata"].update(epoch=7)))
    with pytest.raises(DamagedCheckpointError, match="no such checkpoint"):
        restore_checkpoint(tmp_path / "absent", tree)


def edit_record(path, change):
    file = path / "record" / "metadata"
    record = json.loads(file.read_text())
    change(record)
    file.write_text(json.dumps(record))


def test_other_model_is_told_apart_from_damage(tmp_path):
    save_checkpoint(tmp_path / "c", {"a": jnp.ones(3), "b": jnp.ones(2), "old": jnp.ones(1)})
    with pytest.raises(CheckpointMismatchError) as error:
        restore_checkpoint(tmp_path / "c", {"a": jnp.ones(4), "b": jnp.ones(2), "new": jnp.ones(1)})
    message = str(error.value)
    assert "new: missing in the checkpoint" in message
    assert "old: not part of the model" in message
    assert "a: found float32[3], expected float32[4]" in message


def test_full_disk_is_refused_before_writing(tmp_path, tree, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(1000, 990, 10))
    with pytest.raises(NoSpaceError, match=r"MB needed, 0\.0 MB free"):
        save_checkpoint(tmp_path / "c", tree)
    assert list(tmp_path.iterdir()) == []


def test_disk_that_fills_up_while_writing_leaves_nothing(tmp_path):
    tree = {"noise": np.random.default_rng(0).integers(0, 2**32, 500_000, dtype=np.uint32)}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(NoSpaceError, match="Nothing half-written was left"):
            save_checkpoint(tmp_path / "c", tree)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []
    save_checkpoint(tmp_path / "c", tree)
    assert_same(restore_checkpoint(tmp_path / "c", tree)[0], tree)


def test_a_checkpoint_is_never_overwritten(tmp_path, tree):
    save_checkpoint(tmp_path / "c", tree)
    with pytest.raises(FileExistsError, match="found a checkpoint, expected none"):
        save_checkpoint(tmp_path / "c", tree)


def test_last_ones_and_best_are_kept(tmp_path):
    kept = Checkpoints(tmp_path / "phase", keep=2)
    for step, score in [(1, 0.2), (2, 0.9), (3, 0.5), (4, None), (5, 0.9)]:
        kept.save(step, {"w": jnp.full(3, float(step))}, {"step": step}, score)
    assert kept.steps() == [2, 4, 5]
    assert kept.best_step() == 2
    step, tree, metadata = kept.restore({"w": jnp.zeros(3)})
    assert (step, float(tree["w"][0]), metadata) == (5, 5.0, {"step": 5})
    assert kept.restore({"w": jnp.zeros(3)}, step=kept.best_step()).step == 2


def test_damaged_one_is_passed_over_loudly(tmp_path, caplog):
    kept = Checkpoints(tmp_path / "phase")
    like = {"w": np.zeros(5000, np.uint32)}
    assert kept.restore(like) is None
    for step in (1, 2):
        kept.save(step, {"w": np.random.default_rng(step).integers(0, 2**32, 5000, dtype=np.uint32)})
    flip_bit(largest_file(kept.path(2)))
    with caplog.at_level(logging.ERROR, "lam_jax"):
        assert kept.restore(like).step == 1
    assert "step_00000002: damaged checkpoint" in caplog.text
    assert "Falling back" in caplog.text
    assert kept.steps() == [1]
    flip_bit(largest_file(kept.path(1)))
    with pytest.raises(DamagedCheckpointError, match="No usable checkpoint is left"):
        kept.restore(like)


def test_half_written_folder_is_ignored_and_removed(tmp_path):
    Checkpoints(tmp_path).save(1, {"w": jnp.ones(2)})
    shutil.copytree(tmp_path / "step_00000001", tmp_path / "step_00000002.orbax-checkpoint-tmp")
    reopened = Checkpoints(tmp_path)
    assert reopened.steps() == [1]
    assert [path.name for path in tmp_path.iterdir()] == ["step_00000001"]
