"""Work of one chip, read from HLO: of programs compiled for the host, and of lines that the TPU compiler wrote."""

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from lam_jax.aot.decode import bytes_read, launch
from lam_jax.aot.flops import count_flops
from lam_jax.aot.work import chip_work
from lam_jax.parallel import make_mesh
from lam_jax.parallel.collectives import parse_hlo


def compiled_work(function, *arguments, **options):
    return chip_work(jax.jit(function).lower(*arguments).compile().as_text(), **options)


def test_sharded_products_are_divided_and_replicated_ones_are_not():
    mesh = make_mesh((4, 1, 2))

    def array(shape, *spec):
        return jax.ShapeDtypeStruct(shape, jnp.float32, sharding=NamedSharding(mesh, PartitionSpec(*spec)))

    w = array((64, 32), None, "tensor")
    product = 2 * 16 * 64 * 32
    divided = compiled_work(lambda x, w: x @ w, array((16, 64), "data"), w)
    assert divided.flops == product // 8
    assert divided.bytes == 4 * (4 * 64 + 64 * 16 + 4 * 16)
    repeated = compiled_work(lambda x, w: x @ w, array((16, 64)), w)
    assert repeated.flops == product // 2


def test_loops_count_their_trips_as_the_traced_program_does():
    x, w = jnp.ones((16, 32)), jnp.ones((6, 32, 32))

    def run(x, w):
        return jnp.sum(jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, w)[0])

    gradient = jax.grad(run, argnums=1)
    assert compiled_work(gradient, x, w).flops == count_flops(jax.jit(gradient).trace(x, w).jaxpr)

    def until(x, w):
        return jax.lax.while_loop(lambda x: jnp.sum(x) < 9, lambda x: jnp.tanh(x @ w[0]), x)

    assert compiled_work(until, x, w, unknown_trips=11).flops == 11 * 2 * 16 * 32 * 32


# What libtpu 0.0.52 made of jax.numpy products: a plain one, one batched over two dimensions, one contracted over two.
TPU_LINES = """HloModule jit_f
ENTRY %main.1 (a: f32[2,600,128], b: f32[128,192]) -> f32[2,600,192] {
  %a = f32[2,600,128]{2,1,0} parameter(0)
  %b = f32[128,192]{1,0} parameter(1)
  %q = f32[2,2,600,32]{3,2,1,0} constant({...})
  %k = f32[2,600,2,32]{3,1,2,0} constant({...})
  %g = f32[2,600,192]{2,1,0} constant({...})
  %plain = f32[2,600,192]{1,2,0:T(8,128)} convolution(%a, %b), window={size=1}, dim_labels=0bf_io0->0bf
  %batched = f32[2,2,600,600]{3,2,1,0} convolution(%q, %k), window={size=2x2 lhs_dilate=2x2}, dim_labels=0b1f_0o1i->01bf
  ROOT %summed = f32[128,192,1]{1,0,2} convolution(%a, %g), window={size=2}, dim_labels=0fb_0io->bf0
}
"""


def test_products_that_the_tpu_compiler_wrote_as_convolutions():
    def line(name):
        kept = [line for line in TPU_LINES.splitlines() if "convolution" not in line or f"%{name} " in line]
        return chip_work("\n".join(kept)).flops

    assert line("plain") == 2 * (2 * 600 * 192) * 128
    assert line("batched") == 2 * (2 * 2 * 600 * 600) * 32
    assert line("summed") == 2 * (128 * 192) * (2 * 600)


# What jax 0.10.2 made of products for an H100: in a fusion that Triton compiles, its sum split in 8, and by cuBLAS.
GPU_LINES = """HloModule jit_f, is_scheduled=true

%gemm_fusion_dot_computation (parameter_0: bf16[32,8,256], parameter_1: bf16[8,256,512]) -> f32[8,32,512] {
  %parameter_0 = bf16[32,8,256]{2,1,0} parameter(0)
  %parameter_1 = bf16[8,256,512]{2,1,0} parameter(1)
  ROOT %dot.5 = f32[8,32,512]{2,1,0} dot(%parameter_0, %parameter_1), lhs_batch_dims={1}, lhs_contracting_dims={2}, rhs_batch_dims={0}, rhs_contracting_dims={1}, backend_config={"sizes":["16"]}
}

ENTRY %main (x: bf16[32,2048], w: bf16[2048,512], a: f32[8,256,32], b: f32[8,256,64]) -> f32[8,32,64] {
  %x = bf16[32,2048]{1,0} parameter(0)
  %w = bf16[2048,512]{1,0} parameter(1)
  %a = f32[8,256,32]{2,1,0} parameter(2)
  %b = f32[8,256,64]{2,1,0} parameter(3)
  %parts = bf16[32,8,256]{2,1,0} bitcast(%x)
  %rows = bf16[8,256,512]{2,1,0} bitcast(%w)
  %gemm_fusion_dot = f32[8,32,512]{2,1,0} fusion(%parts, %rows), kind=kCustom, calls=%gemm_fusion_dot_computation, backend_config={"fusion_backend_config":{"kind":"__triton_nested_gemm_fusion"}}
  %custom-call.1 = (f32[8,32,64]{2,1,0}, s8[4194304]{0}) custom-call(%a, %b), custom_call_target="__cublas$lt$matmul", backend_config={"gemm_backend_config":{"beta":0,"dot_dimension_numbers":{"lhs_contracting_dimensions":["1"],"rhs_contracting_dimensions":["1"],"lhs_batch_dimensions":["0"],"rhs_batch_dimensions":["0"]}}}
  ROOT %out = f32[8,32,64]{2,1,0} get-tuple-element(%custom-call.1), index=0
}
"""  # noqa: E501


# What jax 0.10.2 made of a Pallas kernel that appends to a cache; its code, and where it comes from, cut out.
PALLAS_LINES = """HloModule jit_f, is_scheduled=true

ENTRY %main (s: s32[1], q: bf16[4096], k: bf16[64,1024,128], v: bf16[64,1024,128]) -> bf16[4096] {
  %s = s32[1]{0} parameter(0)
  %q = bf16[4096]{0} parameter(1)
  %k = bf16[64,1024,128]{2,1,0} parameter(2)
  %v = bf16[64,1024,128]{2,1,0} parameter(3)
  %pallas_call.1 = (bf16[4096]{0}, bf16[64,1024,128]{2,1,0}, bf16[64,1024,128]{2,1,0}) custom-call(%s, %q, %k, %v), custom_call_target="__gpu$xla.gpu.triton", operand_layout_constraints={s32[1]{0}, bf16[4096]{0}, bf16[64,1024,128]{2,1,0}, bf16[64,1024,128]{2,1,0}}, output_to_operand_aliasing={{1}: (2, {}), {2}: (3, {})}, api_version=API_VERSION_TYPED_FFI, backend_config={grid_x = 512 : i32}
  ROOT %y = bf16[4096]{0} get-tuple-element(%pallas_call.1), index=0
}
"""  # noqa: E501


def test_our_kernels_cost_what_they_say_and_read_no_caches_that_they_append_to():
    shapes = ((1,), (4096,), (64, 1024, 128), (64, 1024, 128))
    found = chip_work(PALLAS_LINES, kernels={shapes: 1234, ((1,),): 5})
    assert (found.flops, found.bytes) == (1234, 4 + 2 * 4096 + 2 * 4096)
    computations, entry = parse_hlo(PALLAS_LINES)
    kernel = computations[entry]["pallas_call.1"]
    assert launch(kernel, computations) == "Pallas kernels"
    assert bytes_read(kernel, computations, computations[entry]) == 4 + 2 * 4096
    # Without aliases everything is read; another call is not ours.
    plain = PALLAS_LINES.replace("output_to_operand_aliasing={{1}: (2, {}), {2}: (3, {})}, ", "")
    assert chip_work(plain).bytes == found.bytes + 4 * 2 * 64 * 1024 * 128
    assert chip_work(PALLAS_LINES.replace("__gpu$xla.gpu.triton", "topk")).bytes == 0


def test_products_that_the_gpu_compiler_wrote_as_fusions_and_library_calls():
    found = chip_work(GPU_LINES)
    triton, cublas = 2 * 32 * 512 * 2048, 8 * 2 * 32 * 64 * 256
    assert found.flops == triton + cublas
    # The scratch memory of the library is no result.
    read = 2 * (32 * 2048 + 2048 * 512) + 4 * 8 * 256 * (32 + 64)
    assert found.bytes == read + 4 * 8 * 32 * (512 + 64)
    plain = GPU_LINES.replace("__cublas$lt$matmul", "__cublas$gemm")
    assert chip_work(plain) == found
    assert chip_work(GPU_LINES.replace("__cublas$lt$matmul", "topk")).flops == triton
