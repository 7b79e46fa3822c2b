"""XLA's flags for busy machines are added where they are known and wanted."""

import pytest

from lam_jax.parallel.patience import SECONDS, TERMINATE, patient


@pytest.mark.parametrize("given", ["", "--xla_force_host_platform_device_count=4"])
def test_the_time_out_is_added(given):
    assert patient(given).split() == [*given.split(), f"--{TERMINATE}={SECONDS}"]


def test_a_time_out_of_ones_own_stays():
    assert patient(f"--{TERMINATE}=7") == f"--{TERMINATE}=7"


def test_a_flag_that_xla_does_not_know_is_left_out():
    """It would abort the process."""
    unknown = "xla_cpu_collective_no_such_timeout_seconds"
    assert patient("--xla_force_host_platform_device_count=4", unknown) == "--xla_force_host_platform_device_count=4"
