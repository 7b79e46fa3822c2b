"""Where a process finds out what it is part of; no network is used."""

import jax
import pytest

from lam_jax.parallel.processes import Place, StartUpError, find_place, start

ADDRESS = {"LAM_JAX_COORDINATOR": "host0:8476", "LAM_JAX_PROCESSES": "4"}
SLURM = {
    "SLURM_JOB_ID": "4100",
    "SLURM_STEP_NODELIST": "gpu[007-010],other",
    "SLURM_NTASKS": "4",
    "SLURM_PROCID": "2",
    "SLURM_LOCALID": "0",
}


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, None),
        (ADDRESS | {"LAM_JAX_PROCESS": "3"}, Place("explicit", "host0:8476", 4, 3)),
        (ADDRESS | {"JOB_COMPLETION_INDEX": "1"}, Place("kubernetes", "host0:8476", 4, 1)),
        (ADDRESS | SLURM | {"LAM_JAX_PROCESS": "0"}, Place("explicit", "host0:8476", 4, 0)),
        (SLURM, Place("slurm", "gpu007:61444", 4, 2)),
        (SLURM | {"SLURM_STEP_NODELIST": "a-1,b"}, Place("slurm", "a-1:61444", 4, 2)),
        (SLURM | {"SLURM_NTASKS_PER_NODE": "8", "SLURM_LOCALID": "5"}, Place("slurm", "gpu007:61444", 4, 2, (5,))),
        (SLURM | {"SLURM_NTASKS": "1", "SLURM_PROCID": "0"}, None),
        ({"LAM_JAX_PROCESSES": "tpu"}, Place("tpu")),
    ],
)
def test_place(environment, expected):
    assert find_place(environment) == expected


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        (ADDRESS, "Found LAM_JAX_COORDINATOR, LAM_JAX_PROCESSES but not LAM_JAX_PROCESS"),
        (ADDRESS | {"LAM_JAX_PROCESS": "4"}, "index 4 of 4 processes"),
        (ADDRESS | {"LAM_JAX_PROCESS": "one"}, "LAM_JAX_PROCESS is 'one', expected a number"),
        ({"LAM_JAX_COORDINATOR": "host0", "LAM_JAX_PROCESSES": "2", "LAM_JAX_PROCESS": "0"}, "expected host:port"),
    ],
)
def test_incomplete_environment_is_refused(environment, message):
    with pytest.raises(StartUpError, match=message):
        find_place(environment)


@pytest.mark.parametrize(("backend", "read_back"), [("cpu", False), ("tpu", True)])
def test_several_processes_on_cpus_read_no_program_back(monkeypatch, backend, read_back):
    told = {}
    monkeypatch.setattr(jax.config, "update", lambda name, value: told.update({name: value}))
    monkeypatch.setattr(jax.distributed, "initialize", lambda *_, **__: None)
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    assert start({}) is None
    assert not told
    assert start(ADDRESS | {"LAM_JAX_PROCESS": "3"}) == Place("explicit", "host0:8476", 1, 0)  # as jax counts them
    assert told.get("jax_enable_compilation_cache", True) is read_back
