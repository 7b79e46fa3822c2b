"""Kernels, bytes and collectives of a decode step, read from an HLO text that is small enough to count by hand."""

import pytest

from lam_jax.aot.decode import decode_step, launch, launching
from lam_jax.parallel.collectives import collectives, parse_hlo

# A decode loop that ends on data, three layers in it; in the form in which XLA prints programs for GPUs.
HLO = """HloModule jit_rollout, is_scheduled=true

%fused_slice (p0: bf16[3,64,64], p1: s32[]) -> bf16[1,64,64] {
  %p0 = bf16[3,64,64]{2,1,0} parameter(0)
  %p1 = s32[] parameter(1)
  %zero = s32[] constant(0)
  %negative = pred[] compare(%p1, %zero), direction=LT
  ROOT %slice = bf16[1,64,64]{2,1,0} dynamic-slice(%p0, %p1, %zero, %zero), dynamic_slice_sizes={1,64,64}
}

%gemm_computation (q0: bf16[8,64], q1: bf16[1,64,64]) -> bf16[8,64] {
  %q0 = bf16[8,64]{1,0} parameter(0)
  %q1 = bf16[1,64,64]{2,1,0} parameter(1)
  %flat = bf16[64,64]{1,0} bitcast(%q1)
  ROOT %dot.1 = bf16[8,64]{1,0} dot(%q0, %flat), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}

%fused_update (r0: bf16[3,8,64], r1: bf16[8,64], r2: s32[]) -> bf16[3,8,64] {
  %r0 = bf16[3,8,64]{2,1,0} parameter(0)
  %r1 = bf16[8,64]{1,0} parameter(1)
  %r2 = s32[] parameter(2)
  %none = s32[] constant(0)
  %row = bf16[1,8,64]{2,1,0} bitcast(%r1)
  ROOT %put = bf16[3,8,64]{2,1,0} dynamic-update-slice(%r0, %row, %r2, %none, %none)
}

%fused_next (s0: s32[]) -> s32[] {
  %s0 = s32[] parameter(0)
  %one = s32[] constant(1)
  ROOT %sum = s32[] add(%s0, %one)
}

%layer (t: (s32[], bf16[8,64], bf16[3,64,64], bf16[3,8,64])) -> (s32[], bf16[8,64], bf16[3,64,64], bf16[3,8,64]) {
  %t = (s32[], bf16[8,64]{1,0}, bf16[3,64,64]{2,1,0}, bf16[3,8,64]{2,1,0}) parameter(0)
  %i = s32[] get-tuple-element(%t), index=0
  %x = bf16[8,64]{1,0} get-tuple-element(%t), index=1
  %w = bf16[3,64,64]{2,1,0} get-tuple-element(%t), index=2
  %kv = bf16[3,8,64]{2,1,0} get-tuple-element(%t), index=3
  %w.start = ((bf16[3,64,64]{2,1,0}, s32[]), bf16[1,64,64]{2,1,0}, u32[]) fusion-start(%w, %i), kind=kLoop, calls=%fused_slice
  %w.done = bf16[1,64,64]{2,1,0} fusion-done(%w.start)
  %y = bf16[8,64]{1,0} fusion(%x, %w.done), kind=kCustom, calls=%gemm_computation
  %kv.1 = bf16[3,8,64]{2,1,0} fusion(%kv, %y, %i), kind=kLoop, calls=%fused_update
  %next = s32[] fusion(%i), kind=kLoop, calls=%fused_next
  ROOT %out = (s32[], bf16[8,64]{1,0}, bf16[3,64,64]{2,1,0}, bf16[3,8,64]{2,1,0}) tuple(%next, %y, %w, %kv.1)
}

%layer_test (t.1: (s32[], bf16[8,64], bf16[3,64,64], bf16[3,8,64])) -> pred[] {
  %t.1 = (s32[], bf16[8,64]{1,0}, bf16[3,64,64]{2,1,0}, bf16[3,8,64]{2,1,0}) parameter(0)
  %i.1 = s32[] get-tuple-element(%t.1), index=0
  ROOT %more = pred[] fusion(%i.1), kind=kLoop, calls=%fused_next
}

%step (u: (s32[], bf16[8,64], bf16[3,64,64], bf16[3,8,64])) -> (s32[], bf16[8,64], bf16[3,64,64], bf16[3,8,64]) {
  %u = (s32[], bf16[8,64]{1,0}, bf16[3,64,64]{2,1,0}, bf16[3,8,64]{2,1,0}) parameter(0)
  %layers = (s32[], bf16[8,64]{1,0}, bf16[3,64,64]{2,1,0}, bf16[3,8,64]{2,1,0}) while(%u), condition=%layer_test, body=%layer, backend_config={"known_trip_count":{"n":"3"}}
  %h = bf16[8,64]{1,0} get-tuple-element(%layers), index=1
  %w.1 = bf16[3,64,64]{2,1,0} get-tuple-element(%layers), index=2
  %kv.2 = bf16[3,8,64]{2,1,0} get-tuple-element(%layers), index=3
  %n = s32[] get-tuple-element(%layers), index=0
  %head = (bf16[8,192]{1,0}, s8[1024]{0}) custom-call(%h, %w.1), custom_call_target="__cublas$gemm", backend_config={"gemm_backend_config":{"dot_dimension_numbers":{"lhs_contracting_dimensions":["1"]}}}
  %sum.start = bf16[8,64]{1,0} all-reduce-start(%h), replica_groups={{0,1}}, to_apply=%fused_next
  %sum.done = bf16[8,64]{1,0} all-reduce-done(%sum.start)
  %kept = bf16[8,64]{1,0} copy(%sum.done)
  ROOT %again = (s32[], bf16[8,64]{1,0}, bf16[3,64,64]{2,1,0}, bf16[3,8,64]{2,1,0}) tuple(%n, %kept, %w.1, %kv.2)
}

%not_done (v: (s32[], bf16[8,64], bf16[3,64,64], bf16[3,8,64])) -> pred[] {
  %v = (s32[], bf16[8,64]{1,0}, bf16[3,64,64]{2,1,0}, bf16[3,8,64]{2,1,0}) parameter(0)
  %m = s32[] get-tuple-element(%v), index=0
  ROOT %on = pred[] fusion(%m), kind=kLoop, calls=%fused_next
}

ENTRY %main (a: bf16[8,64], b: bf16[3,64,64], c: bf16[3,8,64]) -> bf16[8,64] {
  %a = bf16[8,64]{1,0} parameter(0)
  %b = bf16[3,64,64]{2,1,0} parameter(1)
  %c = bf16[3,8,64]{2,1,0} parameter(2)
  %start = s32[] constant(0)
  %prefilled = bf16[8,64]{1,0} copy(%a)
  %all = (s32[], bf16[8,64]{1,0}, bf16[3,64,64]{2,1,0}, bf16[3,8,64]{2,1,0}) tuple(%start, %prefilled, %b, %c)
  %loop = (s32[], bf16[8,64]{1,0}, bf16[3,64,64]{2,1,0}, bf16[3,8,64]{2,1,0}) while(%all), condition=%not_done, body=%step
  ROOT %last = bf16[8,64]{1,0} get-tuple-element(%loop), index=1
}
"""  # noqa: E501
WEIGHTS, STATE, INDEX = 2 * 64 * 64, 2 * 8 * 64, 4


@pytest.fixture(scope="module")
def step():
    """Five trips of one step each."""
    inside = sum(c.trips for c in collectives(HLO, 5) if c.unbounded)
    return decode_step(HLO, while_trips=5, steps=5, floor=1000.0, collectives=inside)


def test_everything_that_launches_counts_as_often_as_the_layers_run(step):
    """A layer: a slice of the weights, a product, a write to the cache, the counter. Then head, sum, copy and the test
    whether all have ended; the condition of the loop over the layers is never looked at, its trips are known."""
    assert step.launches == {"copies": 3 + 1, "products": 3 + 1, "fusions": 2 * 3 + 1, "collectives": 1}
    assert step.kernels == 16
    assert step.collectives == 1


def test_what_comes_before_the_loop_does_not_count():
    computations, entry = parse_hlo(HLO)
    assert launching(computations, entry) == {"main", "step", "not_done", "layer"}
    assert launch(computations["main"]["prefilled"], computations) == "copies"
    assert launch(computations["main"]["all"], computations) is None
    assert launch(computations["layer"]["w.done"], computations) is None


def test_of_a_slice_the_slice_is_read_and_of_an_update_in_place_nothing(step):
    layer = (WEIGHTS + INDEX) + (STATE + WEIGHTS) + (STATE + INDEX) + INDEX
    head, rest = STATE + 3 * WEIGHTS, STATE + STATE + INDEX  # the sum, the copy, the test
    assert step.bytes_read == 3 * layer + head + rest
    assert step.floor == 1000.0


def test_steps_of_one_trip_share_what_it_does_once():
    shared = decode_step(HLO, while_trips=5, steps=20, floor=1.0, collectives=5)
    assert (shared.kernels, shared.collectives) == (16 / 4, 1 / 4)


def test_what_lies_in_vector_memory_is_not_read_again():
    text = HLO.replace("%h = bf16[8,64]{1,0}", "%h = bf16[8,64]{1,0:T(8,128)S(1)}")
    found = decode_step(text, 5, 5, 1.0, 0)
    assert found.bytes_read == decode_step(HLO, 5, 5, 1.0, 0).bytes_read - 2 * STATE
