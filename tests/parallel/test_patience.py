"""XLA's flags for busy machines are added where they are known and wanted."""

import pytest

from lam_jax.parallel.patience import SECONDS, TERMINATE, THREADS, patient, patient_environment


@pytest.mark.parametrize("given", ["", "--xla_force_host_platform_device_count=4"])
def test_the_time_out_is_added(given):
    assert patient(given).split() == [*given.split(), f"--{TERMINATE}={SECONDS}"]


def test_a_time_out_of_ones_own_stays():
    assert patient(f"--{TERMINATE}=7") == f"--{TERMINATE}=7"


def test_a_flag_that_xla_does_not_know_is_left_out():
    """It would abort the process."""
    unknown = "xla_cpu_collective_no_such_timeout_seconds"
    assert patient("--xla_force_host_platform_device_count=4", unknown) == "--xla_force_host_platform_device_count=4"


EIGHT = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8"}


def test_several_cpu_devices_get_threads_to_wait_in_several_collectives_each():
    assert patient_environment(EIGHT)[THREADS] == "32"
    assert patient_environment(EIGHT)["XLA_FLAGS"] == f"{EIGHT['XLA_FLAGS']} --{TERMINATE}={SECONDS}"


def test_a_number_of_threads_of_ones_own_stays():
    assert THREADS not in patient_environment(EIGHT | {THREADS: "9"})


def test_one_device_keeps_the_threads_that_it_has():
    assert THREADS not in patient_environment({"JAX_PLATFORMS": "cpu"})
    assert patient_environment({}) == {}


def test_several_processes_keep_the_threads_that_they_have():
    assert THREADS not in patient_environment(EIGHT, several_processes=True)
