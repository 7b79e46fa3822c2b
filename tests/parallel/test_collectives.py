"""Collectives read from compiled programs: kind, shape, bytes, loops."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from lam_jax.parallel import make_mesh
from lam_jax.parallel.collectives import collectives

# As the TPU compiler prints them: tiled layouts, asynchronous pairs, wrapped computations, loops without annotations.
TPU = """HloModule jit_f, is_scheduled=true, entry_computation_layout={(f32[2,8]{1,0:T(2,128)})->f32[2,8]{1,0:T(2,128)}}

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[]{:T(128)} parameter(0)
  %b = f32[]{:T(128)} parameter(1)
  ROOT %sum = f32[]{:T(128)} add(%a, %b)
}

%wrapped (p: bf16[8,16]) -> bf16[4,16] {
  %p = bf16[8,16]{1,0:T(8,128)(2,1)} parameter(0)
  ROOT %reduce-scatter.1 = bf16[4,16]{1,0:T(4,128)(2,1)} reduce-scatter(%p), replica_groups=[8,2]<=[16], dimensions={0}, to_apply=%add
}

%body (t: (s32[], f32[2,8], bf16[8,16])) -> (s32[], f32[2,8], bf16[8,16]) {
  %t = (s32[]{:T(128)}, f32[2,8]{1,0:T(2,128)}, bf16[8,16]{1,0:T(8,128)(2,1)}) parameter(0)
  %x = f32[2,8]{1,0:T(2,128)} get-tuple-element(%t), index=1
  %w = bf16[8,16]{1,0:T(8,128)(2,1)} get-tuple-element(%t), index=2
  %gather-start = (f32[2,8]{1,0:T(2,128)}, f32[8,8]{1,0:T(8,128)S(1)}) all-gather-start(%x), replica_groups=[4,4]<=[8,2]T(1,0), dimensions={0}, metadata={op_name="jit(f)/gather"}
  %gather-done = f32[8,8]{1,0:T(8,128)S(1)} all-gather-done(%gather-start)
  %scatter-start = ((bf16[8,16]), bf16[4,16], u32[]) async-start(%w), calls=%wrapped
  %scatter-done = bf16[4,16]{1,0:T(4,128)(2,1)} async-done(%scatter-start)
}

%condition (c: (s32[], f32[2,8], bf16[8,16])) -> pred[] {
  %c = (s32[]{:T(128)}, f32[2,8]{1,0:T(2,128)}, bf16[8,16]{1,0:T(8,128)(2,1)}) parameter(0)
  %limit = s32[]{:T(128)} constant(9)
  %i = s32[]{:T(128)} get-tuple-element(%c), index=0
  ROOT %lt = pred[]{:T(512)} compare(%i, %limit), direction=LT
}

ENTRY %main (x: f32[2,8], w: bf16[8,16]) -> f32[2,8] {
  %x.1 = f32[2,8]{1,0:T(2,128)} parameter(0)
  %w.1 = bf16[8,16]{1,0:T(8,128)(2,1)} parameter(1)
  %two = s32[]{:T(128)} constant(2)
  %start = s32[]{:T(128)} copy(%two)
  %carried = (s32[]{:T(128)}, f32[2,8]{1,0:T(2,128)}, /*index=2*/bf16[8,16]{1,0:T(8,128)(2,1)}) tuple(%start, %x.1, %w.1)
  %loop = (s32[]{:T(128)}, f32[2,8]{1,0:T(2,128)}, /*index=2*/bf16[8,16]{1,0:T(8,128)(2,1)}) while(%carried), condition=%condition, body=%body
  %total = (f32[2,8]{1,0:T(2,128)}, s32[]) all-reduce(%x.1, %two), replica_groups=mesh['a'=8,'b'=2] {'a','b'}, to_apply=%add
}
"""  # noqa: E501


def test_asynchronous_pairs_and_wrapped_computations_count_once():
    found = {(c.kind, c.dtype, c.shape): c for c in collectives(TPU)}
    gather = found.pop(("all-gather", "f32", (8, 8)))
    assert (gather.bytes, gather.trips, gather.group, gather.source) == (256, 7, 4, "jit(f)/gather")
    scatter = found.pop(("reduce-scatter", "bf16", (4, 16)))
    assert (scatter.bytes, scatter.trips, scatter.group, scatter.total_bytes) == (256, 7, 2, 7 * 256)
    total = found.pop(("all-reduce", "f32", (2, 8)))
    assert (total.bytes, total.trips, total.group, total.computation) == (64, 1, 16, "main")
    assert found.pop(("all-reduce", "s32", ())).bytes == 4
    assert not found


def test_who_takes_part_together_in_each_notation():
    found = {c.kind: c.groups for c in collectives(TPU)}
    # Eight rows of two devices, read column by column: four of every second device.
    assert found["all-gather"] == ((0, 2, 4, 6), (8, 10, 12, 14), (1, 3, 5, 7), (9, 11, 13, 15))
    assert found["reduce-scatter"] == tuple((n, n + 1) for n in range(0, 16, 2))
    assert found["all-reduce"] == (tuple(range(16)),)

    def groups(notation):
        return collectives(TPU.replace("replica_groups=mesh['a'=8,'b'=2] {'a','b'}", notation))[-1].groups

    assert groups("replica_groups=mesh['a'=8,'b'=2] {'a'}") == (tuple(range(0, 16, 2)), tuple(range(1, 16, 2)))
    assert groups("replica_groups=mesh['a'=8,'b'=2] {'b'}") == tuple((n, n + 1) for n in range(0, 16, 2))
    assert groups("replica_groups={{0,1},{2,3}}") == ((0, 1), (2, 3))
    assert groups("source_target_pairs={{0,1},{1,0}}") == ((0, 1), (1, 0))
    assert groups("replica_groups={}") == ()


def test_a_real_program():
    """A scan gathers one layer at a time; what a loop on data sends is marked."""
    mesh = make_mesh((2, 2, 2))

    def program(x, weights):
        def layer(x, weight):
            y = jnp.tanh(x @ weight)
            return jax.lax.with_sharding_constraint(y, NamedSharding(mesh, PartitionSpec(("data", "fsdp"), None))), None

        x, _ = jax.lax.scan(layer, x, weights)
        return jax.lax.while_loop(lambda x: jnp.sum(x) < 3, lambda x: x + 1, x)

    x = jnp.zeros((16, 32), device=NamedSharding(mesh, PartitionSpec(("data", "fsdp"), None)))
    weights = jnp.zeros((5, 32, 32), device=NamedSharding(mesh, PartitionSpec(None, "fsdp", "tensor")))
    text = jax.jit(program).lower(x, weights).compile().as_text()
    found = collectives(text, unknown_trips=11)
    layers = [c for c in found if c.kind == "all-gather" and c.shape == (32, 16)]
    assert [(c.bytes, c.trips, c.group, c.unbounded) for c in layers] == [(2048, 5, 2, False)]
    sums = [c for c in found if c.kind == "all-reduce" and c.shape == ()]
    assert sums
    assert all(c.unbounded and c.trips == 11 for c in sums)


def test_something_else_is_refused():
    with pytest.raises(ValueError, match="no ENTRY computation"):
        collectives("module @jit_f {}")
