"""Cuts of a batch as metrics: one number for the rows of all processes."""

import functools

import jax
import numpy as np
import pytest

from lam_jax.data.collator import Collated
from lam_jax.data.cuts import Cuts
from lam_jax.parallel import TRAIN, make_mesh
from lam_jax.parallel.rows import from_own_rows
from lam_jax.pipeline import resources
from tests.tiny import Row, make_batch, words


@pytest.mark.parametrize("processes", [1, 2])
def test_cuts_are_those_of_the_global_batch(monkeypatch, processes):
    """With several processes each puts its own at its first row, and the devices add them up."""
    monkeypatch.setattr(jax, "process_count", lambda: processes)
    mesh, rows = make_mesh((4, 1, 2)), 8
    place_rows = functools.partial(from_own_rows, rows=tuple(range(rows)), size=rows, mesh=mesh, rules=TRAIN)
    made = Collated(make_batch([Row(words(4))] * rows, 8), (), Cuts(3, 41))
    found = resources._cuts(place_rows, made)
    assert {name: float(np.asarray(value)) for name, value in found.items()} == {"rows_cut": 3, "tokens_cut": 41}
