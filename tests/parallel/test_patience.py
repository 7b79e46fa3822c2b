"""XLA's flags for busy machines are added where they are wanted."""

from lam_jax.parallel.patience import SECONDS, TERMINATE, THREADS, patient_environment

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
