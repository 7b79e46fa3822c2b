"""The real thing: jax's compiler for NVIDIA cards, without a card. `make aot` installs it and runs these."""

import dataclasses
import json

import pytest

from lam_jax.aot.compilers import check_plugin, compiling_for
from lam_jax.aot.flops import count_flops, kernel_flops
from lam_jax.aot.programs import Setting, build
from lam_jax.aot.report import check
from lam_jax.aot.topology import MissingExtraError, hosts_of, topology_devices, topology_mesh
from lam_jax.aot.work import chip_work
from lam_jax.aot.workload import Workload
from lam_jax.cli import main
from lam_jax.latent.config import LATENT_PRESETS
from lam_jax.models.qwen2_5_vl.presets import PRESETS
from lam_jax.parallel import make_mesh
from lam_jax.parallel.cards import CARDS
from lam_jax.train.counting import rollout_flops


def plugin() -> str:
    """Why nothing can be compiled; "" if it can."""
    try:
        check_plugin()
    except MissingExtraError as error:
        return str(error)
    return ""


# Only Linux has wheels of the plugin.
pytestmark = [pytest.mark.aot, pytest.mark.skipif(bool(plugin()), reason=plugin() or "can be compiled")]
PRESET = "qwen2_5_vl_3b"


def compiled(tmp_path, *args):
    """(exit code, reports by stage)"""
    code = main(["compile", "--out", str(tmp_path), *args])
    [file] = tmp_path.glob("*.json")
    return code, {report["stage"]: report for report in json.loads(file.read_text())["reports"]}


def test_a_decode_step_reads_less_of_a_backbone_in_int8():
    """The compiler widens it in each product, and does not keep a wide copy outside of the loop."""
    work = Workload(rows=1, prompts=4, samples=8, prompt=64, completion=64, image=(56, 84))
    setting = Setting(PRESET, topology_mesh(topology_devices("h100:1"), (1, 1, 1)), work)
    held = (setting, dataclasses.replace(setting, rollout_weights="int8"))
    same, int8 = (check("rollout_latent", one, "h100:1", CARDS["h100"]).decode for one in held)
    assert same is not None
    assert int8 is not None
    assert same.bytes_read - int8.bytes_read > 0.9 * (same.floor - int8.floor) > 2e9


@pytest.mark.parametrize("name", CARDS)
def test_every_card_is_understood_and_compiled_for(name):
    devices = topology_devices(f"{name}:1")
    assert [device.device_kind for device in devices] == [CARDS[name].title]
    work = Workload(rows=1, prompts=2, samples=2, prompt=64, completion=8, image=(56, 84))
    report = check("projector", Setting("tiny", topology_mesh(devices, (1, 1, 1)), work), f"{name}:1", CARDS[name])
    assert report.fits
    assert report.chip_flops == pytest.approx(report.flops, rel=0.03)


def test_hosts_are_numbered():
    mesh = topology_mesh(topology_devices("h100:2x8"), (2, 4, 2))
    assert hosts_of(mesh) == (0,) * 8 + (1,) * 8


def test_programs_of_the_tiny_preset_compile_for_two_hosts(tmp_path):
    stages = ("--stage", "projector", "cloning", "rollout_latent", "update_latent")
    sizes = ("--prompt", "256", "--completion", "64", "--mesh", "4,2,2")
    code, reports = compiled(tmp_path, "--preset", "tiny", "--topology", "h100:2x8", *stages, *sizes)
    assert code == 0
    assert len(reports) == 4
    for stage, report in reports.items():
        assert report["fits"], stage
        # What XLA finds twice in a program it computes once; several cards may have to repeat some of it.
        assert 0.8 * report["flops"] <= report["chip_flops"] * 16 <= 3 * report["flops"], stage
        # `data` is the outer axis, so gradients are summed between the hosts and nothing of a layer is.
        if not stage.startswith("rollout"):
            assert (
                0 < report["collectives"]["all-reduce"]["between_hosts"] < report["collectives"]["all-reduce"]["bytes"]
            )


@pytest.mark.parametrize("stage", ["rollout_token", "rollout_latent", "inverse"])
def test_products_are_those_that_the_program_asks_for(stage):
    """Triton's fusions, cuBLAS's calls, split sums and our kernels are counted as what they compute."""
    one = setting("h100:1")
    with compiling_for(one.mesh):
        program = build(stage, one)
        traced = program.trace()
        text = traced.lower().compile().as_text()
    found = chip_work(text, program.while_trips, kernel_flops(traced.jaxpr))
    assert found.flops == pytest.approx(count_flops(traced.jaxpr, program.while_trips), rel=0.01)


@pytest.mark.parametrize("stage", ["update_token", "update_latent"])
def test_products_of_updates_are_those_that_the_host_s_compiler_leaves(stage):
    """Of the token update XLA computes a fifth less than the program asks for, on every device: it finds what the
    policy and its reference have in common."""
    found = []
    for one in (setting("h100:1"), setting(None)):
        program = build(stage, one)
        found.append(chip_work(program.trace().lower().compile().as_text(), program.while_trips).flops)
    assert found[0] == pytest.approx(found[1], rel=0.01)


def setting(topology):
    """The tiny preset on one card, or on the host."""
    mesh = topology_mesh(topology_devices(topology), (1, 1, 1)) if topology else make_mesh()
    return Setting("tiny", mesh, Workload(rows=2, prompts=2, samples=4, prompt=256, completion=32))


def test_a_tiny_decode_step(tmp_path):
    sizes = ("--prompts", "2", "--samples", "4", "--prompt", "160", "--completion", "32")
    stages = ("--stage", "rollout_token", "rollout_latent")
    code, reports = compiled(tmp_path, "--preset", "tiny", "--topology", "rtx4090:1", *stages, *sizes)
    assert code == 0
    layers = PRESETS["tiny"].text.layers
    for stage, more in (("rollout_token", 0), ("rollout_latent", LATENT_PRESETS["tiny"].policy_layers)):
        step, blocks = reports[stage]["decode"], layers + more
        # Of a block three products, two kernels of attention, two norms; a stack's first norm has nothing to add up.
        assert step["launches"]["Pallas kernels"] == 7 * blocks - (2 if more else 1)
        # Gate and up are XLA's, and so are the heads.
        assert blocks < step["launches"]["products"] < 3 * blocks
        assert 9 * blocks <= sum(step["launches"].values()) < 12 * blocks + 50
        assert step["bytes_read"] >= step["floor"]
        assert step["collectives"] == 0


@pytest.fixture(scope="module")
def rollouts_3b(tmp_path_factory):
    """4 prompts x 8 samples, 1024 + 1024 tokens (issue 19)."""
    stages = ("--stage", "rollout_token", "rollout_latent")
    folder = tmp_path_factory.mktemp("reports")
    code, reports = compiled(folder, "--preset", PRESET, "--topology", "h100:1", "--prompts", "4", *stages)
    assert code == 0
    return reports


def test_3b_latent_rl_fits_a_card_of_24_gb(tmp_path):
    """4 prompts x 8 samples, 1024 + 1024 tokens in bfloat16: 22 GiB at most (issue 19)."""
    stages = ("--stage", "rollout_latent", "update_latent")
    sizes = ("--prompts", "4", "--micro-batches", "4", "--dtype", "bfloat16")
    code, reports = compiled(tmp_path, "--preset", PRESET, "--topology", "rtx4090:1", *stages, *sizes)
    assert code == 0
    for stage, report in reports.items():
        assert sum(report["memory"].values()) <= 22 * 2**30, stage


@pytest.mark.parametrize(("stage", "most"), [("rollout_token", 450), ("rollout_latent", 570)])
def test_a_3b_decode_step_launches_few_kernels(rollouts_3b, stage, most):
    assert sum(rollouts_3b[stage]["decode"]["launches"].values()) <= most


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("name", ["a100", "rtx4090"])
@pytest.mark.parametrize("prompts", [4, 8])
def test_our_kernels_keep_to_a_card_s_shared_memory(name, dtype, prompts):
    """Layers as large as the largest, of which one is enough; most rows that our products take."""
    config = PRESETS[PRESET]
    few = dataclasses.replace(config.text, layers=1), dataclasses.replace(config.vision, layers=1, full_layers=(0,))
    config = dataclasses.replace(config, text=few[0], vision=few[1], compute_dtype=dtype)
    work = Workload(rows=1, prompts=prompts, samples=8, prompt=256, completion=64, image=(56, 84))
    mesh = topology_mesh(topology_devices(f"{name}:1"), (1, 1, 1))
    report = check("rollout_token", Setting(PRESET, mesh, work, backbone=config), f"{name}:1", CARDS[name])
    assert report.memory is not None, report.reason
    assert report.decode.launches["Pallas kernels"] == 6


def test_3b_rollouts_on_one_h100_against_the_formulas(rollouts_3b):
    reports, config = rollouts_3b, PRESETS[PRESET]
    for stage, latent in (("rollout_token", None), ("rollout_latent", LATENT_PRESETS[PRESET])):
        report = reports[stage]
        # Masked scores, which a formula leaves out and a program does not, make the difference.
        assert report["chip_flops"] == pytest.approx(
            rollout_flops(config, latent, (20, 30), 4, 8, 1024, 1024), rel=0.04
        )
        assert report["chip_flops"] == pytest.approx(report["flops"], rel=0.001)
        step = report["decode"]
        assert 1 <= step["bytes_read"] / step["floor"] < 1.5
