import dataclasses
import os
import socket
import subprocess
import sys

import pytest

from lam_jax.data.chat import ChatEncoder
from lam_jax.data.collator import Collator, CollatorConfig, Cuts
from lam_jax.data.loader import Loader, LoaderConfig
from lam_jax.data.readers import pretraining_examples
from lam_jax.data.schemas import DataError, Where
from lam_jax.models.processor import ImageSettings
from lam_jax.models.qwen2_5_vl.presets import PRESETS
from lam_jax.scenes import builder, rows
from lam_jax.scenes.builder import GENERATORS, SceneSizes, prepare, put_images, read_split, take_images
from lam_jax.scenes.tokenizer import load_tokenizer
from lam_jax.tasks.mmrole import mmrole_examples
from lam_jax.tasks.pcogalign import pcogalign_examples

SIZES = SceneSizes(**{config: dict.fromkeys(splits, 3) for config, splits in GENERATORS.items()})
HERE = Where("here")


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    root = tmp_path_factory.mktemp("scenes")
    return root, prepare(root, SIZES)


@pytest.mark.parametrize(("config", "split"), [(c, s) for c, splits in GENERATORS.items() for s in splits])
def test_every_split_reads_back_as_generated(built, config, split):
    parse = {"role_play": mmrole_examples, "help": pcogalign_examples}.get(config, pretraining_examples)
    expected = [example for i in range(3) for example in parse(GENERATORS[config][split](i), HERE)]
    examples = read_split(built[1], config, split)
    assert examples == expected
    assert all(example.facts is not None for example in examples)
    assert all(len(example.images) == (config != "text_only") for example in examples)
    assert len({example.id for example in examples}) == len(examples)


def test_a_built_set_is_used_again(built, monkeypatch):
    root, folder = built
    monkeypatch.setattr(builder, "_build", None)
    assert prepare(root, SIZES) == folder


def test_other_sizes_and_other_generator_code_are_another_set(built, tmp_path, monkeypatch):
    before = builder.fingerprint(SIZES)
    assert built[1].name.endswith(before)
    assert builder.fingerprint(dataclasses.replace(SIZES, text_only={"train": 4, "test": 3})) != before
    changed = tmp_path / "mmrole.py"
    changed.write_text("# other prompts")
    monkeypatch.setattr(builder.mmrole, "__file__", str(changed))
    assert builder.fingerprint(SIZES) != before


def test_a_failed_build_leaves_nothing_behind(tmp_path, monkeypatch):
    def broken(config, split, index):
        raise OSError(28, "No space left on device")

    monkeypatch.setitem(GENERATORS["help"], "ls2", lambda index: broken("help", "ls2", index))
    with pytest.raises(OSError, match="No space left"):
        prepare(tmp_path, SIZES)
    assert list(tmp_path.iterdir()) == []


def test_remains_of_killed_builds_are_removed(tmp_path, monkeypatch):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    remains = tmp_path / f".building-{socket.gethostname()}-{dead.pid}"
    other = tmp_path / f".building-{socket.gethostname()}-{os.getppid()}"
    for path in (remains, other):
        path.mkdir()
        (path / "half.array_record").write_bytes(b"x")
    monkeypatch.setattr(builder, "_build", lambda scenes: scenes.data_path.mkdir(parents=True))
    folder = prepare(tmp_path, SIZES)
    assert {path.name for path in tmp_path.iterdir()} == {folder.name, other.name}


def test_a_faster_process_wins(tmp_path, monkeypatch):
    target = tmp_path / f"scenes-{builder.fingerprint(SIZES)}"

    def build(scenes):
        scenes.data_path.mkdir(parents=True)
        (target / "scenes").mkdir(parents=True, exist_ok=True)

    monkeypatch.setattr(builder, "_build", build)
    assert prepare(tmp_path, SIZES) == target
    assert [path.name for path in tmp_path.iterdir()] == [target.name]


def test_unknown_splits_and_damaged_files_are_named(tmp_path):
    folder = prepare(tmp_path, SIZES)
    with pytest.raises(DataError, match=r"no split role_play/train; expected one of paired/train, .*help/ls2"):
        read_split(folder, "role_play", "train")
    (record,) = folder.glob("scenes/help/*/scenes-rl.array_record*")
    record.write_bytes(record.read_bytes()[:100])
    with pytest.raises(DataError, match="Delete the folder"):
        read_split(folder, "help", "rl")
    for path in folder.glob("scenes/paired/*/*"):
        path.unlink()
    with pytest.raises(DataError, match="Delete the folder"):
        read_split(folder, "paired", "train")


@pytest.mark.parametrize("row", [rows.paired(0), rows.text_only(0), rows.role_play("rl", 0), rows.help_row("ls1", 0)])
def test_images_are_taken_out_and_put_back(row):
    bare, images = take_images(row)
    assert put_images(bare, images) == row
    assert b"PNG" not in repr(bare).encode()


def test_sizes_are_checked():
    with pytest.raises(ValueError, match=r"SceneSizes\.help must hold the splits"):
        SceneSizes(help={"sft": 3})
    with pytest.raises(ValueError, match=r"text_only\['test'\] must be at least 1, got 0"):
        SceneSizes(text_only={"train": 3, "test": 0})


@pytest.mark.parametrize(
    ("config", "split", "options", "length"),
    [
        ("paired", "train", {}, 96),
        ("text_only", "train", {}, 128),
        ("role_play", "sft", {}, 192),
        ("help", "sft", {}, 128),
        ("role_play", "rl", {"kind": "prompt", "padding": "left"}, 160),
        ("help", "rl", {"kind": "prompt", "padding": "left"}, 160),
    ],
)
def test_built_rows_become_batches_of_the_demo_shapes(built, config, split, options, length):
    collate = Collator(
        ChatEncoder(load_tokenizer(), PRESETS["tiny"]),
        CollatorConfig((length,), image=ImageSettings(size=(84, 112)), **options),
    )
    out = next(Loader(read_split(built[1], config, split), collate, LoaderConfig(4)))
    assert out.batch.tokens.shape == (4, length)
    assert out.cuts == Cuts()
    if config == "text_only":
        assert out.batch.images is None
        return
    assert out.batch.has_image.all()
    assert out.batch.images.patches.shape == (4, 48, 1176)
    assert out.batch.images.window_slots.shape == (4, 4, 16)
    assert ((out.batch.tokens == PRESETS["tiny"].image_id).sum(axis=1) == 12).all()
