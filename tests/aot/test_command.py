"""`lam-jax compile` on eight host devices in the place of a pod: output, files, exit codes, messages."""

import dataclasses
import json

import jax
import pytest

from lam_jax.aot import command
from lam_jax.cli import main
from lam_jax.parallel.chips import CHIPS

TINY = ["--preset", "tiny", "--topology", "v5e:2x4"]
SIZES = ["--rows", "8", "--prompts", "4", "--samples", "2", "--prompt", "160", "--completion", "8"]


@pytest.fixture
def pod(monkeypatch):
    """A v5e:2x4 whose chips are the host's devices, which compile for themselves."""
    monkeypatch.setattr(command, "topology_devices", lambda name: jax.devices())


def call(args, capsys):
    """(exit code, stdout, stderr), the text joined over line breaks and boxes."""
    try:
        code = main(["compile", *args])
    except SystemExit as stop:  # tyro's way out of bad flags
        code = stop.code
    out, err = capsys.readouterr()
    return code, *(" ".join(text.replace("│", " ").split()) for text in (out, err))


def test_a_step_that_fits_ends_with_code_0_and_is_written_down(pod, capsys, tmp_path):
    args = [*TINY, *SIZES, "--stage", "projector", "--mesh", "2,2,2", "--out", str(tmp_path)]
    code, out, err = call(args, capsys)
    assert (code, err) == (0, "")
    for part in (
        "tiny projector in float32 on v5e:2x4 (data=2, fsdp=2, tensor=2)",
        "memory per chip, of",
        "all-reduce per chip",
    ):
        assert part in out
    assert "estimate at peak figures: MFU" in out
    [report] = json.loads((tmp_path / "tiny_v5e_2x4.json").read_text())["reports"]
    assert (report["stage"], report["fits"], report["chips"]) == ("projector", True, 8)
    assert report["workload"]["rows"] == 8
    assert "| projector |" in (tmp_path / "README.md").read_text()


def test_a_step_that_does_not_fit_ends_with_code_1(pod, capsys, monkeypatch):
    monkeypatch.setitem(CHIPS, "v5e", dataclasses.replace(CHIPS["v5e"], hbm=2**20))
    code, out, err = call([*TINY, *SIZES, "--stage", "projector", "--mesh", "2,2,2"], capsys)
    assert code == 1
    assert "DOES NOT FIT: needs" in out
    assert err.startswith("lam-jax: tiny does not fit v5e:2x4: projector (needs ")


ROLLS = [*TINY, *SIZES, "--stage", "rollout_latent", "update_latent", "--mesh", "2,2,2"]


def test_rollouts_are_compiled_on_their_own_mesh(pod, capsys, tmp_path):
    code, out, _ = call([*ROLLS, "--rollout-mesh", "data=2,wide=2,tensor=2", "--out", str(tmp_path)], capsys)
    assert code == 0
    assert "rollouts on mesh data 2, fsdp 1, wide 2, tensor 2: as asked for" in out
    assert "tiny rollout_latent in float32 on v5e:2x4 (data=2, fsdp=1, wide=2, tensor=2)" in out
    assert "tiny update_latent in float32 on v5e:2x4 (data=2, fsdp=2, tensor=2)" in out
    assert "estimate at peak figures: latency" in out
    page = (tmp_path / "README.md").read_text()
    assert "Mesh data 2, fsdp 2, tensor 2; rollout_latent on data 2, fsdp 1, wide 2, tensor 2." in page


def test_the_mesh_of_rollouts_is_chosen_by_its_cost(pod, capsys, monkeypatch):
    """Of a chip that reads slowly and waits for nothing one on which each reads an eighth."""
    slow = dataclasses.replace(CHIPS["v5e"], hbm_bandwidth=1e6, hop=0.0)
    monkeypatch.setitem(CHIPS, "v5e", slow)
    code, out, _ = call([*ROLLS[:-4], "--stage", "rollout_latent", "--mesh", "8,1,1"], capsys)
    assert code == 0
    assert "rollouts on mesh data" in out
    assert "a decode step takes" in out
    code, out, _ = call([*ROLLS[:-4], "--stage", "rollout_latent", "--mesh", "2,2,2", "--rollout-mesh", "same"], capsys)
    assert (code, "rollouts on" in out) == (0, False)


@pytest.mark.parametrize(
    ("args", "part"),
    [
        (
            [*ROLLS, "--rollout-mesh", "1,1,4"],
            "has 4 devices, but the mesh of training, data 2, fsdp 2, tensor 2, has 8",
        ),
        ([*ROLLS, "--rollout-mesh", "wide=8"], "'samples' (samples of a prompt) of size 2 does not divide"),
        ([*ROLLS, "--rollout-mesh", "best"], "--rollout-mesh: found 'best', expected 'auto', 'same', three positive"),
        (["--preset", "tiny", "--topology", "v5x:4x4", "--stage", "joint"], "found 'v5x:4x4', expected a TPU chip of"),
        ([*TINY, "--stage", "joint", "--mesh", "2,2,1"], "a mesh of 4 chips, but the topology has 8"),
        ([*TINY, "--stage", "joint", "--mesh", "data=2,model=4"], "expected three positive sizes data,fsdp,tensor"),
        ([*TINY, "--stage", "joint", "--rows", "12", "--mesh", "8,1,1"], "rows of a batch) of size 12 does not divide"),
        ([*TINY], "--stage and --all: expected one of them"),
        ([*TINY, "--stage", "joint", "--all"], "--stage and --all: expected one of them"),
        (
            [*TINY, "--all", "--rollout-weights", "int8"],
            "--rollout-weights: found int8 with --all",
        ),
        ([*TINY, "--stage", "joint", "--samples", "0"], "--samples: found 0, expected at least 1"),
        ([*TINY, "--stage", "joint", "--markdown", "table.md"], "--markdown: expected --out"),
    ],
)
def test_impossible_requests_end_with_code_2(pod, capsys, args, part):
    code, out, err = call(args, capsys)
    assert code == 2
    assert part in out + err
    assert "Traceback" not in err
