// y = x @ kernel in float32 for a few rows, as in a decode step: at the speed at which the kernel is read, which is held
// in float32, in bfloat16 or in int8 (whose scales the caller multiplies y with) and widened in registers.
//
// XLA's CPU backend reaches about 0.6 of it at 8 rows. Here the kernel lies in panels of PANEL columns, so that a thread
// reads one stream of memory; the sums of a tile of ROWS x WIDTH stay in registers; the threads of XLA's own pool share
// the panels. Called from packed_linear.py through XLA's foreign function interface (stable C API of jaxlib's headers).
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "xla/ffi/api/c_api.h"

#define PANEL 32
#define ROWS 8
#define CHUNK (1 << 16)  // weights of the kernel that a thread takes at a time
#define AHEAD 4096       // bytes from a load to its prefetch
#define LINE 64          // bytes that a prefetch brings

// Two vectors for each of ROWS rows take half of 32 registers, or all of 16.
#ifdef __AVX512F__
#define LANES 16
#else
#define LANES 8
#endif
#define WIDTH (2 * LANES)
typedef float Vector __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t Ints __attribute__((vector_size(4 * LANES)));
typedef uint32_t Bits __attribute__((vector_size(4 * LANES)));
typedef uint16_t Halves __attribute__((vector_size(2 * LANES), aligned(2), may_alias));
typedef int16_t Shorts __attribute__((vector_size(2 * LANES)));
typedef int8_t Bytes __attribute__((vector_size(LANES), aligned(1), may_alias));

// LANES weights of `size` bytes each as floats; `size` is constant after inlining.
static inline __attribute__((always_inline)) Vector widened(const char* weights, const int size) {
  if (size == 1) {  // in two steps: GCC 12 converts four times as wide one by one
    const Shorts wide = __builtin_convertvector(*(const Bytes*)weights, Shorts);
    return __builtin_convertvector(__builtin_convertvector(wide, Ints), Vector);
  }
  if (size == 2) return (Vector)(__builtin_convertvector(*(const Halves*)weights, Bits) << 16);
  return *(const Vector*)weights;
}

// WIDTH columns of a panel for `rows` rows, which is constant after inlining, as is `size`.
static inline __attribute__((always_inline)) void tile(const float* x, const char* kernel, float* y, int64_t inputs,
                                                       int64_t outputs, const int rows, const int size) {
  Vector left[ROWS], right[ROWS];
  for (int r = 0; r < rows; r++) left[r] = right[r] = (Vector){0};
  for (int64_t k = 0; k < inputs; k++, kernel += PANEL * size) {
    const Vector a = widened(kernel, size), b = widened(kernel + LANES * size, size);
    for (int i = 0; i < WIDTH * size; i += LINE) __builtin_prefetch(kernel + AHEAD + i);
    for (int r = 0; r < rows; r++) {
      left[r] += a * x[r * inputs + k];
      right[r] += b * x[r * inputs + k];
    }
  }
  for (int r = 0; r < rows; r++) {
    *(Vector*)(y + r * outputs) = left[r];
    *(Vector*)(y + r * outputs + LANES) = right[r];
  }
}

typedef struct {
  const float* x;       // [rows, inputs]
  const char* kernel;   // [panels, inputs, PANEL] weights
  float* y;             // [rows, panels * PANEL]
  int64_t rows, inputs, panels, chunk_panels, chunks;
  int size;                 // bytes of a weight
  atomic_llong next, done;  // chunks taken, chunks computed
  atomic_llong users;       // threads that may still look at the job
} Job;

static inline __attribute__((always_inline)) void compute(const Job* job, int64_t begin, int64_t end, const int size) {
  const int64_t outputs = job->panels * PANEL;
  for (int64_t p = begin; p < end; p++)
    for (int64_t r = 0; r < job->rows; r += ROWS)
      for (int64_t c = 0; c < PANEL; c += WIDTH) {
        const float* x = job->x + r * job->inputs;
        const char* kernel = job->kernel + (p * job->inputs * PANEL + c) * size;
        float* y = job->y + r * outputs + p * PANEL + c;
#define TILE(n) tile(x, kernel, y, job->inputs, outputs, n, size)
        switch (job->rows - r) {
          case 1: TILE(1); break;
          case 2: TILE(2); break;
          case 3: TILE(3); break;
          case 4: TILE(4); break;
          case 5: TILE(5); break;
          case 6: TILE(6); break;
          case 7: TILE(7); break;
          default: TILE(ROWS);
        }
      }
}

// Narrow kernels are read faster than separate products and sums are computed; C11 alone does not let GCC fuse them.
#if defined(__GNUC__) && !defined(__clang__)
#define FUSED __attribute__((optimize("fp-contract=fast")))
#else
#define FUSED
#endif
static FUSED void compute_narrow(const Job* job, int64_t begin, int64_t end) {
  if (job->size == 1) compute(job, begin, end, 1);
  else compute(job, begin, end, 2);
}

static void compute_float(const Job* job, int64_t begin, int64_t end) { compute(job, begin, end, 4); }

static void release(Job* job) {
  if (atomic_fetch_sub(&job->users, 1) == 1) free(job);
}

// A thread that starts when all chunks are taken has nothing to do, so nobody waits for threads that have not started:
// the pool may be busy with callers that wait as well.
static void help(void* data) {
  Job* job = data;
  int64_t i;
  while ((i = atomic_fetch_add(&job->next, 1)) < job->chunks) {
    const int64_t begin = i * job->chunk_panels, end = begin + job->chunk_panels;
    (job->size == 4 ? compute_float : compute_narrow)(job, begin, end < job->panels ? end : job->panels);
    atomic_fetch_add(&job->done, 1);
  }
  release(job);
}

XLA_FFI_Error* packed_product(XLA_FFI_CallFrame* frame) {
  // The type of an extension has another name from jax 0.12 on; it need not be named.
  if (frame->extension_start != NULL && frame->extension_start->type == XLA_FFI_Extension_Metadata) {  // at registration
    XLA_FFI_Metadata* metadata = ((XLA_FFI_Metadata_Extension*)frame->extension_start)->metadata;
    metadata->api_version.major_version = XLA_FFI_API_MAJOR;
    metadata->api_version.minor_version = XLA_FFI_API_MINOR;
    return NULL;
  }
  const XLA_FFI_Buffer *x = frame->args.args[0], *kernel = frame->args.args[1], *y = frame->rets.rets[0];
  const int size = kernel->dtype == XLA_FFI_DataType_S8 ? 1 : kernel->dtype == XLA_FFI_DataType_BF16 ? 2 : 4;
  int64_t threads = 1;
  XLA_FFI_ThreadPool_NumThreads_Args count = {XLA_FFI_ThreadPool_NumThreads_Args_STRUCT_SIZE, NULL, frame->ctx, &threads};
  XLA_FFI_Error* error = frame->api->XLA_FFI_ThreadPool_NumThreads(&count);
  if (error != NULL) return error;

  Job* job = malloc(sizeof(Job));
  if (job == NULL) {
    XLA_FFI_Error_Create_Args out = {XLA_FFI_Error_Create_Args_STRUCT_SIZE, NULL, "packed_product: out of memory",
                                     XLA_FFI_Error_Code_RESOURCE_EXHAUSTED};
    return frame->api->XLA_FFI_Error_Create(&out);
  }
  const int64_t rows = x->dims[0], inputs = x->dims[1], panels = kernel->dims[0];
  const int64_t chunk_panels = inputs * PANEL < CHUNK ? CHUNK / (inputs * PANEL) : 1;
  const int64_t chunks = (panels + chunk_panels - 1) / chunk_panels;
  if (threads > chunks) threads = chunks;
  *job = (Job){x->data, kernel->data, y->data, rows, inputs, panels, chunk_panels, chunks, size, 0, 0, threads + 1};
  for (int64_t i = 1; i < threads && error == NULL; i++) {
    XLA_FFI_ThreadPool_Schedule_Args task = {XLA_FFI_ThreadPool_Schedule_Args_STRUCT_SIZE, NULL, frame->ctx, help, job};
    error = frame->api->XLA_FFI_ThreadPool_Schedule(&task);
    if (error != NULL) atomic_fetch_sub(&job->users, threads - i);  // those that will not come
  }
  help(job);
  while (atomic_load(&job->done) < chunks) sched_yield();
  release(job);
  return error;
}
