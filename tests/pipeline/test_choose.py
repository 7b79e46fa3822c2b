"""The devices that a process can ask are its own; the smallest decides, on every process."""

import jax
import pytest

from lam_jax.pipeline import choose


class Device:
    def __init__(self, limit: int | None):
        self.limit = limit

    def memory_stats(self):
        return None if self.limit is None else {"bytes_limit": self.limit}


class OfAnotherProcess:
    def memory_stats(self):
        raise RuntimeError("MemoryStats is only supported for addressable PjRt devices.")


@pytest.mark.parametrize(
    ("own", "others", "expected"), [([8, 6], [[7]], 6), ([8], [[5, 9]], 5), ([None], [[None]], None)]
)
def test_the_smallest_device_of_all_processes_decides(monkeypatch, own, others, expected):
    monkeypatch.setattr(jax, "devices", lambda: [OfAnotherProcess(), *map(Device, own)])
    monkeypatch.setattr(jax, "local_devices", lambda: [Device(limit) for limit in own])
    monkeypatch.setattr(choose, "gather_json", lambda found: [*others, found])
    assert choose.device_memory() == expected
