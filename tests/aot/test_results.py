"""Results as files: one report a stage, the newest; tables of everything."""

import dataclasses

import pytest

from lam_jax.aot.decode import DecodeStep
from lam_jax.aot.report import Estimate, Memory, Report, Traffic
from lam_jax.aot.results import load, save, write_markdown

GIB = 2**30


def report(stage="update_latent", chips=16, step=2.0, **changes) -> Report:
    made = Report(
        preset="tiny",
        stage=stage,
        topology="v5e:4x4" if chips == 16 else "v5e:16x16",
        chips=chips,
        mesh={"data": chips // 4, "fsdp": 2, "tensor": 2},
        workload={"rows": chips, "prompts": chips // 4, "samples": 8, "prompt": 1024, "completion": 1024},
        hbm=15.75 * GIB,
        fits=True,
        reason="",
        memory=Memory(2 * GIB, GIB, 0, GIB // 2, 0),
        flops=10**15 * chips,
        chip_flops=15 * 10**14,
        collectives={"all-gather": Traffic(36, 5 * 10**9)},
        estimate=Estimate(1.0, 0.5, 1.0, step, 0.25),
        tokens=1000,
        cpu_seconds=60.0,
        versions={},
        dtype="float32",
    )
    return dataclasses.replace(made, **changes)


def test_a_newer_report_replaces_the_one_of_its_stage(tmp_path):
    save(report(cpu_seconds=1.0), tmp_path)
    save(report("inverse"), tmp_path)
    path = save(report(cpu_seconds=2.0), tmp_path)
    assert path == tmp_path / "tiny_v5e_4x4.json"
    assert [(r["stage"], r["cpu_seconds"]) for r in load(path)] == [("inverse", 60.0), ("update_latent", 2.0)]


def test_tables_hold_memory_work_and_estimates(tmp_path):
    save(report(), tmp_path)
    refused = {"fits": False, "reason": "the compiler refuses it", "memory": None, "chip_flops": None}
    save(report("inverse", collectives={}, estimate=None, **refused), tmp_path)
    write_markdown(tmp_path, tmp_path / "docs" / "table.md")
    lines = (tmp_path / "docs" / "table.md").read_text().splitlines()
    [row] = [line for line in lines if line.startswith("| update_latent |")]
    assert row == "| update_latent | 3.50 | 1.00 | yes | 16,000 | 1.50 | all-gather 5.00 | 2.000 | 0.000 | 25.0% | 60 |"
    [row] = [line for line in lines if line.startswith("| inverse |")]
    assert row == "| inverse | - | - | no: the compiler refuses it | 16,000 | - | - | - | - | - | 60 |"
    assert "## tiny in float32 on v5e:4x4: 16 chips" in lines
    assert not any("Weak scaling" in line for line in lines)


def test_weak_scaling_compares_with_16_chips_of_the_kind(tmp_path):
    save(report(step=2.0), tmp_path)
    save(report(chips=256, step=2.5), tmp_path)
    save(report("inverse", chips=256), tmp_path)
    write_markdown(tmp_path, tmp_path / "table.md")
    text = (tmp_path / "table.md").read_text()
    scaling = text[text.index("## Weak scaling") :]
    assert "| tiny | v5e | update_latent | 2.000 | 256 | 2.500 | 80% |" in scaling
    assert "inverse" not in scaling


@pytest.mark.parametrize("chips", [16, 256])
def test_the_workload_is_in_the_heading(tmp_path, chips):
    save(report(chips=chips), tmp_path)
    write_markdown(tmp_path, tmp_path / "table.md")
    assert f"{chips // 4} prompts x 8 samples of 1024 + 1024 tokens" in (tmp_path / "table.md").read_text()


def lines_of(tmp_path, *reports):
    for one in reports:
        save(one, tmp_path)
    write_markdown(tmp_path, tmp_path / "table.md")
    return (tmp_path / "table.md").read_text().splitlines()


def test_another_dtype_than_the_preset_s_has_a_file_of_its_own(tmp_path):
    save(report(), tmp_path)
    path = save(report(dtype="bfloat16"), tmp_path)
    assert path == tmp_path / "tiny_v5e_4x4_bfloat16.json"
    assert len(load(path)) == 1


def test_rollouts_in_fewer_bits_have_a_file_and_lines_of_their_own(tmp_path):
    step = DecodeStep({}, 3e9, 2e9, 4.0)
    lines = lines_of(tmp_path, *(report("rollout_latent", decode=step, rollout_weights=w) for w in ("same", "int8")))
    assert load(tmp_path / "tiny_v5e_4x4_rollouts_int8.json")[0]["rollout_weights"] == "int8"
    starts = [f"| tiny rollout_latent | {precision} | v5e:4x4 |" for precision in ("float32", "float32, rollouts int8")]
    assert [sum(line.startswith(start) for line in lines) for start in starts] == [1, 1]


def test_a_method_fits_a_card_if_all_its_programs_do(tmp_path):
    """3.5 GiB each program; of token RL one does not fit on one card, and none was compiled for eight."""
    one = {"topology": "rtx4090:1", "chips": 1, "hbm": 23 * GIB}
    eight = {"topology": "h100:8", "chips": 8, "hbm": 75 * GIB}
    short = {"fits": False, "reason": "needs 24.00 GiB, a card has 23.00 GiB", "memory": Memory(24 * GIB, 0, 0, 0, 0)}
    latent = [report(stage, **where) for stage in ("rollout_latent", "update_latent") for where in (one, eight)]
    token = [report("rollout_token", **one), report("update_token", **one | short)]
    lines = lines_of(tmp_path, *latent, *token, report("inverse"))
    assert "| method | size | precision | rtx4090:1, 23.0 GiB each | h100:8, 75.0 GiB each |" in lines
    assert "| latent RL | tiny | float32 | yes, 3.5 | yes, 3.5 |" in lines
    assert "| token RL | tiny | float32 | **no**, 24.0 | - |" in lines
    assert not any(line.startswith("| stage 1") for line in lines)  # compiled for a TPU only
    assert "## tiny in float32 on rtx4090:1: 1 card" in lines


def test_decode_steps_have_a_table(tmp_path):
    step = DecodeStep({"Pallas kernels": 7.0, "copies": 2.0, "fusions": 30.5, "products": 8.0}, 3e9, 2e9, 4.0)
    card = report("rollout_token", topology="h100:8", chips=8, decode=step)
    lines = lines_of(tmp_path, card, report("rollout_token", decode=step))
    assert "| tiny rollout_token | float32 | h100:8 | - | 48 | 7 | 8 | 30 | 2 | 3.00 | 1.50 | 4 |" in lines
    assert "| tiny rollout_token | float32 | v5e:4x4 | - | - | - | - | - | - | 3.00 | 1.50 | 4 |" in lines


def test_micro_batches_are_told_where_there_are_several(tmp_path):
    card = {"topology": "rtx4090:1", "chips": 1, "hbm": 23 * GIB}
    work = report().workload | {"micro_batches": 1}
    update = report(**card, workload=work | {"micro_batches": 4})
    lines = lines_of(tmp_path, report("rollout_latent", **card, workload=work), update)
    assert "| latent RL | tiny | float32 | yes, 3.5 (4 micro-batches) |" in lines
    assert sum(line.startswith("| update_latent, 4 micro-batches | 3.50 |") for line in lines) == 1
    assert sum(line.startswith("| rollout_latent | 3.50 |") for line in lines) == 1
