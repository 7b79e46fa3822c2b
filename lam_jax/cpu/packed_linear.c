// y = x @ kernel in float32 for a few rows, as in a decode step: at the speed at which the kernel is read.
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
#define CHUNK (1 << 16)  // floats of the kernel that a thread takes at a time
#define AHEAD 1024       // floats from a load to its prefetch

// Two vectors for each of ROWS rows take half of 32 registers, or all of 16.
#ifdef __AVX512F__
#define LANES 16
#else
#define LANES 8
#endif
#define WIDTH (2 * LANES)
typedef float Vector __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

// WIDTH columns of a panel for `rows` rows, which is constant after inlining.
static inline __attribute__((always_inline)) void tile(const float* x, const float* kernel, float* y, int64_t inputs,
                                                       int64_t outputs, const int rows) {
  Vector left[ROWS], right[ROWS];
  for (int r = 0; r < rows; r++) left[r] = right[r] = (Vector){0};
  for (int64_t k = 0; k < inputs; k++, kernel += PANEL) {
    const Vector a = *(const Vector*)kernel, b = *(const Vector*)(kernel + LANES);
    for (int i = 0; i < WIDTH; i += 16) __builtin_prefetch(kernel + AHEAD + i);
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
  const float* kernel;  // [panels, inputs, PANEL]
  float* y;             // [rows, panels * PANEL]
  int64_t rows, inputs, panels, chunk_panels, chunks;
  atomic_llong next, done;  // chunks taken, chunks computed
  atomic_llong users;       // threads that may still look at the job
} Job;

static void compute(const Job* job, int64_t begin, int64_t end) {
  const int64_t outputs = job->panels * PANEL;
  for (int64_t p = begin; p < end; p++)
    for (int64_t r = 0; r < job->rows; r += ROWS)
      for (int64_t c = 0; c < PANEL; c += WIDTH) {
        const float *x = job->x + r * job->inputs, *kernel = job->kernel + p * job->inputs * PANEL + c;
        float* y = job->y + r * outputs + p * PANEL + c;
#define TILE(n) tile(x, kernel, y, job->inputs, outputs, n)
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
    compute(job, begin, end < job->panels ? end : job->panels);
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
  *job = (Job){x->data, kernel->data, y->data, rows, inputs, panels, chunk_panels, chunks, 0, 0, threads + 1};
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
