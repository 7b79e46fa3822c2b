"""The golden runner: what it passes, what it fails, and (under `make parity`) every set that is there."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from tests.parity.case import Case
from tests.parity.checks import Check, judge
from tests.parity.golden import main, part_verdicts, report, verdicts

GOLDEN = Path(__file__).parent / "golden_data"
SHARED = Path(os.environ.get("LAM_JAX_PARITY", Path(__file__).parents[3] / "shared" / "parity"))
REFERENCE = np.array([[10.0, 0.0, -3.0]], np.float32)


def passes(ours, reference=REFERENCE, **options) -> bool:
    return judge("array", Check(np.asarray(ours, reference.dtype), **options), reference).passed


def test_outputs_are_judged_element_by_element():
    assert passes(REFERENCE + 1e-5 + 1e-4 * np.abs(REFERENCE) * 0.9)
    assert not passes(np.add(REFERENCE, [[2e-3, 0, 0]]))
    assert not passes(np.add(REFERENCE, [[0, 2e-4, 0]]))
    assert not passes(REFERENCE * [[1, np.nan, 1]])
    assert not passes(REFERENCE[0])


def test_rounding_near_zero_is_counted_and_bounded_by_the_row():
    verdict = judge("array", Check(REFERENCE + np.float32([[0, 8e-5, 0]])), REFERENCE)
    assert verdict.passed
    assert verdict.note.startswith("1 of 3")
    small = REFERENCE / 100  # in a row without large numbers the same difference is none of rounding
    assert not passes(small + np.float32([[0, 8e-5, 0]]), small)
    scalar = np.float32(1e-3)
    assert not passes(scalar + np.float32(8e-5), scalar)


def test_gradients_indices_and_unknown_arrays():
    assert passes(np.add(REFERENCE, [[5e-3, 5e-5, 1e-3]]), kind="gradient")
    assert not passes(np.add(REFERENCE, [[0, 2e-4, 0]]), kind="gradient")
    codes = np.array([[3, 1]])
    assert passes(codes, codes)
    assert not passes(codes + 1, codes)
    assert passes(np.add(codes, [[0, 1]]), codes, where=np.array([[True, False]]))
    assert not judge("array", None, codes).passed


def write_processor_set(folder: Path, pixels: np.ndarray) -> None:
    made = Qwen2VLImageProcessorPil(max_pixels=20000)(images=[Image.fromarray(pixels)], return_tensors="np")
    arrays = {"0.image": pixels, "0.pixel_values": made["pixel_values"], "0.image_grid_thw": made["image_grid_thw"]}
    np.savez(folder / "processor_own.npz", **arrays)
    settings = {"index": 0, "min_pixels": 3136, "max_pixels": 20000}
    settings |= {"patch_size": 14, "temporal_patch_size": 2, "merge_size": 2}
    (folder / "processor_own.json").write_text(json.dumps([settings]))


@pytest.fixture
def processor_set(tmp_path: Path) -> Path:
    write_processor_set(tmp_path, np.random.default_rng(0).integers(0, 256, (90, 300, 3), dtype=np.uint8))
    return tmp_path


def run(monkeypatch, folder: Path, name: str) -> int:
    monkeypatch.setattr("sys.argv", ["golden", str(folder), name])
    return main()


def test_exit_status_and_table(processor_set: Path, monkeypatch, capsys):
    assert run(monkeypatch, processor_set, "processor_own") == 0
    assert "3 of 3 arrays pass" in capsys.readouterr().out

    path = processor_set / "processor_own.npz"
    arrays = dict(np.load(path))
    np.savez(path, **arrays, new_array=np.zeros(2))
    assert run(monkeypatch, processor_set, "processor_own") == 1
    assert "unknown array" in capsys.readouterr().out

    arrays["0.pixel_values"][5, 7] += 1e-2
    np.savez(path, **arrays)
    assert run(monkeypatch, processor_set, "processor_own") == 1
    assert "2 of 3 arrays pass" in capsys.readouterr().out


def test_a_set_that_is_not_there(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"nothing_config\.json"):
        verdicts(tmp_path, "nothing")


@pytest.mark.parametrize("part", ["weights", "inputs", "outputs", "generation", "grads_PolicyActionWorldVLM"])
def test_committed_set_of_our_own(part: str):
    """From `python -m tests.parity.make_golden`: three rows with up to two images, two text rows, an untied head."""
    assert report(part_verdicts(Case(GOLDEN, "own"), part), Console(width=220))


@pytest.mark.parity
@pytest.mark.parametrize("name", sorted(path.stem.removesuffix("_config") for path in SHARED.glob("*_config.json")))
def test_every_golden_set_passes(name: str):
    assert report(verdicts(SHARED, name), Console())


@pytest.mark.parity
@pytest.mark.parametrize("name", sorted(path.stem for path in SHARED.glob("processor_*.npz")))
def test_every_processor_set_passes(name: str):
    assert report(verdicts(SHARED, name), Console())
