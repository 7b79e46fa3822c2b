"""Golden sets made by our own torch implementation of the released stages, of several sizes. `make parity`."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from tests.parity import released_stages as stages
from tests.parity.golden import report, verdicts
from tests.parity.made_sets import OTHERS, OWN, MadeSet, make
from tests.parity.released_reference import Released, Rows

pytestmark = pytest.mark.parity

SHARED = Path(os.environ.get("LAM_JAX_PARITY", Path(__file__).parents[3] / "shared" / "parity"))


@pytest.mark.parametrize("made", [OWN, *OTHERS], ids=lambda made: made.name)
def test_made_set_passes(made: MadeSet, tmp_path: Path):
    make(made, tmp_path)
    assert report(verdicts(tmp_path, made.name), Console(width=220))


@pytest.mark.parametrize("path", sorted(SHARED.glob("*_config.json")), ids=lambda path: path.stem)
def test_torch_implementation_is_the_released_code(path: Path):
    """Its outputs are those of the released sets, so what it makes can stand for them."""
    name = path.stem.removesuffix("_config")

    def arrays(part: str) -> dict[str, torch.Tensor]:
        with np.load(path.parent / f"{name}_{part}.npz") as file:
            return {key: torch.from_numpy(np.asarray(file[key])) for key in file.files}

    given, expected = arrays("inputs"), arrays("outputs")
    settings = json.loads(path.read_text())
    model, eager = Released(settings), Released(settings, "eager")
    weights = {key: value.numpy() for key, value in arrays("weights").items()}
    model.load(weights)
    eager.load(weights)
    images = {key: given[key] for key in ("pixel_values", "image_grid_thw")}
    mm, txt = (
        Rows(
            given[f"input_ids_{kind}"],
            given[f"attention_mask_{kind}"],
            given[f"labels_{kind}"],
            expected[f"{kind}/position_ids"],
            images if kind == "mm" else {},
        )
        for kind in ("mm", "txt")
    )
    noise = {key: value for key, value in expected.items() if "gumbel_noise" in key}
    found, losses = stages.outputs(model, eager, mm, txt, noise)
    assert set(found) == set(expected)
    for key, value in expected.items():
        # Torch's own products round by the processor's vector width: 2.5e-6 of the largest number were seen.
        largest = float(value.abs().max())
        atol = 1e-5 * largest if value.is_floating_point() else 0
        torch.testing.assert_close(torch.as_tensor(found[key]), value, rtol=1e-6, atol=atol, msg=key)
    for stage, loss in losses.items():
        theirs = arrays(f"grads_{stage}")
        ours = stages.gradients(model, stage, loss)
        assert set(ours) == set(theirs)
        for key, value in theirs.items():
            torch.testing.assert_close(ours[key], value, rtol=1e-4, atol=float(1e-5 * value.abs().max()), msg=key)
