"""A flag is added where XLA knows it and nobody has set it."""

import pytest

from lam_jax.parallel.xla_flags import add_flag

KNOWN = "xla_force_host_platform_device_count"


@pytest.mark.parametrize("given", ["", "--xla_backend_optimization_level=2"])
def test_a_flag_is_added(given):
    assert add_flag(given, KNOWN, "4").split() == [*given.split(), f"--{KNOWN}=4"]


def test_a_value_of_ones_own_stays():
    assert add_flag(f"--{KNOWN}=7", KNOWN, "4") == f"--{KNOWN}=7"


def test_a_flag_that_xla_does_not_know_is_left_out():
    """It would abort the process."""
    assert add_flag(f"--{KNOWN}=4", "xla_cpu_no_such_flag", "1") == f"--{KNOWN}=4"
