"""The environment that jax starts in; nothing is joined here."""

import importlib
import os

import pytest

from lam_jax.parallel.patience import THREADS

DEVICES = {"XLA_FLAGS": "--xla_force_host_platform_device_count=4"}
ONE_OF_TWO = {"LAM_JAX_COORDINATOR": "host0:8476", "LAM_JAX_PROCESSES": "2", "LAM_JAX_PROCESS": "1"}


@pytest.mark.parametrize(("place", "threads"), [({}, "16"), (ONE_OF_TWO, None)])
def test_only_a_program_of_one_process_gets_more_threads(monkeypatch, place, threads):
    module = importlib.import_module("lam_jax.hosts.start")
    for name in ("leave_absent_devices_out", "start", "keep_compiled_programs", "keep_host_memory"):
        monkeypatch.setattr(module, name, lambda: None)
    environment = DEVICES | place
    monkeypatch.setattr(os, "environ", environment)
    module.start_process.__wrapped__()
    assert environment.get(THREADS) == threads
