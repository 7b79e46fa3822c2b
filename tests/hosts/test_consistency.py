"""The start-up check, with the other processes made up."""

import jax
import numpy as np
import pytest

from lam_jax.errors import ProcessesDifferError
from lam_jax.hosts import consistency as same
from lam_jax.hosts.consistency import code_hash, require_consistent, require_consistent_weights, versions
from lam_jax.parallel import make_mesh
from lam_jax.parallel.checksum import shard_hashes


def processes(monkeypatch, change):
    """Three processes, of which the last one differs by `change` of the gathered array."""

    def gather(values):
        other = values.copy()
        change(other)
        return np.stack([values, values, other])

    monkeypatch.setattr(same, "gather", gather)


def test_processes_that_are_alike_pass(monkeypatch):
    processes(monkeypatch, lambda values: None)
    require_consistent({"code": code_hash(), "versions": versions(), "long": "x" * 1000})


def test_the_one_that_differs_is_named_with_what_differs(monkeypatch):
    def change(table):
        table[0, :2] = np.frombuffer(b"h2", np.uint8)
        table[2, :4] = np.frombuffer(b"9999", np.uint8)

    processes(monkeypatch, change)
    with pytest.raises(ProcessesDifferError) as error:
        require_consistent({"code": "abcd", "data": "1234"})
    message = str(error.value)
    assert "The 3 processes of this run are not alike: process 2 on h2" in message
    assert "differs from process 0 in data: found 9999, expected 1234." in message
    assert "in code" not in message


def test_hash_of_code_is_the_same_each_time():
    assert code_hash() == code_hash()


def test_copies_of_weights_are_compared_shard_by_shard(monkeypatch, key):
    mesh = make_mesh((2, 2, 2))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("fsdp"))
    tree = {"w": jax.device_put(np.arange(8.0, dtype=np.float32), sharding), "k": key}
    assert sorted(shard_hashes(tree["w"])) == [0, 4]
    monkeypatch.setattr(jax, "process_count", lambda: 3)
    processes(monkeypatch, lambda values: None)
    require_consistent_weights(tree)

    def change(values):
        if values.ndim == 2:
            values[-1, -1] ^= 1

    processes(monkeypatch, change)
    with pytest.raises(ProcessesDifferError, match="Process 2 differs from process 0 in the weight w"):
        require_consistent_weights(tree)
