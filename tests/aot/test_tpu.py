"""The real thing: the TPU compiler, for a v5e slice of 16 chips. `make aot` installs it and runs these."""

import json

import pytest

from lam_jax.cli import main

pytestmark = pytest.mark.aot


def compiled(tmp_path, *args):
    """(exit code, reports by stage)"""
    code = main(["compile", "--topology", "v5e:4x4", "--out", str(tmp_path), *args])
    [file] = tmp_path.glob("*.json")
    return code, {report["stage"]: report for report in json.loads(file.read_text())["reports"]}


def test_every_program_of_the_tiny_preset_compiles(tmp_path):
    code, reports = compiled(tmp_path, "--preset", "tiny", "--all", "--prompt", "256", "--completion", "64")
    assert code == 0
    assert len(reports) == 10
    for stage, report in reports.items():
        assert report["fits"], stage
        # Nothing but what several chips must repeat is computed twice.
        assert 0.95 * report["flops"] <= report["chip_flops"] * 16 <= 3 * report["flops"], stage


def test_3b_latent_rl_fits_sixteen_chips(tmp_path):
    """4 prompts x 8 samples, 1024 + 1024 tokens (issue 4)."""
    code, reports = compiled(tmp_path, "--preset", "qwen2_5_vl_3b", "--stage", "rollout_latent", "update_latent")
    assert code == 0
    for report in reports.values():
        assert report["workload"]["prompts"] * report["workload"]["samples"] == 32
        assert sum(report["memory"].values()) < report["hbm"]


def test_3b_does_not_fit_two_chips_worth_of_memory(tmp_path):
    """Weights on every chip of `data`: the compiler refuses, or the sum says so."""
    args = ("--preset", "qwen2_5_vl_3b", "--stage", "sft_latent", "--mesh", "16,1,1", "--rows", "16")
    code, reports = compiled(tmp_path, *args)
    assert code == 1
    assert not reports["sft_latent"]["fits"]
    assert reports["sft_latent"]["reason"]
