#pragma once

/* Octavo in C11.
 *
 *   octavo_plan* plan = NULL;
 *   octavo_plan_create("paged pool=split q=f32 hq=4 hkv=1 d=64 mask=causal q_len=1 kv_len=4096",
 *                      "cpu", NULL, &plan);
 *   octavo_arguments arguments = OCTAVO_ARGUMENTS_INIT;
 *   arguments.q = octavo_dense(q, OCTAVO_F32, 3, (const int64_t[]){1, 4, 64});
 *   ...
 *   if (octavo_plan_run(plan, &arguments, NULL) != OCTAVO_OK) puts(octavo_last_error());
 *   octavo_plan_destroy(plan);
 *
 * Functions may be called from any thread. All that can fail return a code, and null pointers, null
 * and destroyed handles, and structs of another version are OCTAVO_INVALID_ARGUMENT in each of
 * them. Problems are in their text form, see docs/problems.md. */

#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__)
#define OCTAVO_EXPORT __attribute__((visibility("default")))
#else
#define OCTAVO_EXPORT
#endif

#ifdef __cplusplus
extern "C" {
#endif

typedef enum octavo_code {
  OCTAVO_OK = 0,
  OCTAVO_INVALID_PROBLEM = 1,  /* text that does not parse, or a problem that makes no sense */
  OCTAVO_INVALID_ARGUMENT = 2, /* arguments that do not fit the function or the plan */
  OCTAVO_UNSUPPORTED = 3,      /* no kernel, or not the forced one, can compute the problem */
  OCTAVO_UNAVAILABLE = 4,      /* the device or backend is not there */
  OCTAVO_OUT_OF_MEMORY = 5,    /* host memory */
  OCTAVO_INTERNAL = 6,         /* a C++ exception that is none of the above */
  OCTAVO_DEVICE_ERROR = 7      /* the device's driver refused or failed a call */
} octavo_code;

/* Element types. The fp8 types are OCP e4m3fn (no infinities) and e5m2. */
typedef int32_t octavo_dtype;
enum { OCTAVO_F32 = 0, OCTAVO_F16 = 1, OCTAVO_BF16 = 2, OCTAVO_E4M3 = 3, OCTAVO_E5M2 = 4 };

/* The library's version, as "0.1.0". */
OCTAVO_EXPORT const char* octavo_version(void);

/* What went wrong in the calling thread's last call that returned an error; "" before the first. It
 * names the field, its value and the limit. Valid until the thread's next call that fails. */
OCTAVO_EXPORT const char* octavo_last_error(void);

/* ---- Texts
 *
 * A function that answers with a text writes it and a final null character to `text`, which has
 * room for `capacity` bytes, and sets `*size` to the bytes it needs, the null character included. A
 * null `text` asks for the size alone, a null `size` for the text alone. Too small a capacity is
 * OCTAVO_INVALID_ARGUMENT; `*size` is set and `text` untouched. */

/* The problem's canonical line. OCTAVO_INVALID_PROBLEM if it does not parse or makes no sense. */
OCTAVO_EXPORT octavo_code octavo_problem_print(const char* problem, char* text, size_t capacity,
                                               size_t* size);

/* The names of a device's kernels in the order of its table, one a line. `device` is "cpu" or
 * "cuda:N"; OCTAVO_UNAVAILABLE if it is not there. */
OCTAVO_EXPORT octavo_code octavo_kernel_names(const char* device, char* text, size_t capacity,
                                              size_t* size);

/* Which kernel computes the problem, and why not the others. Arguments and errors as in
 * octavo_plan_create. */
OCTAVO_EXPORT octavo_code octavo_explain(const char* problem, const char* device,
                                         const char* kernel, char* text, size_t capacity,
                                         size_t* size);

/* ---- Plans */

/* A problem bound to a kernel: an immutable thing that threads may share and run at once. The
 * pointer is a name and leads to no memory; one that was destroyed is never given out again. */
typedef struct octavo_plan octavo_plan;

/* Selects the cheapest kernel of the device that says it can compute the problem, or the one named
 * by `kernel` if that is not null. OCTAVO_INVALID_PROBLEM, OCTAVO_UNSUPPORTED with the reasons of
 * each kernel, or OCTAVO_UNAVAILABLE for a device that is not there; `*plan` is then null. */
OCTAVO_EXPORT octavo_code octavo_plan_create(const char* problem, const char* device,
                                             const char* kernel, octavo_plan** plan);

/* Runs that have begun on other threads end well; later uses of the handle are errors. */
OCTAVO_EXPORT octavo_code octavo_plan_destroy(octavo_plan* plan);

/* The name of the plan's kernel. */
OCTAVO_EXPORT octavo_code octavo_plan_kernel(const octavo_plan* plan, char* text, size_t capacity,
                                             size_t* size);

/* The canonical line of the plan's problem. */
OCTAVO_EXPORT octavo_code octavo_plan_problem(const octavo_plan* plan, char* text, size_t capacity,
                                              size_t* size);

/* Bytes of workspace that a run needs; may be 0. */
OCTAVO_EXPORT octavo_code octavo_plan_workspace_size(const octavo_plan* plan, size_t* size);

/* ---- Runs
 *
 * A struct that is passed by pointer begins with its size, which OCTAVO_..._INIT sets and which
 * tells versions apart; it covers the structs within. */

/* A strided view of memory that the caller owns. Of shape and stride the first `rank` entries
 * count. Strides are in elements; the innermost is 1. */
typedef struct octavo_tensor {
  void* data;
  octavo_dtype dtype;
  int32_t rank;
  int64_t shape[4];
  int64_t stride[4];
} octavo_tensor;

/* Page ids [requests, columns], `stride` elements from request to request: entry (r, c) holds
 * tokens c * page_size .. of request r. Entries past a request's length may hold anything. */
typedef struct octavo_page_table {
  const int32_t* data;
  int64_t requests;
  int64_t columns;
  int64_t stride;
} octavo_page_table;

typedef struct octavo_floats {
  const float* data;
  int64_t count;
} octavo_floats;

/* A factor: `values` where the problem says tensor (1 value) or head (hkv values), else `value`. */
typedef struct octavo_scale {
  float value;
  octavo_floats values;
} octavo_scale;

/* Bits [rows, row_bytes]: bit j % 8 of byte j / 8 of a row says that the query sees key j. */
typedef struct octavo_mask_bits {
  const uint8_t* data;
  int64_t rows;
  int64_t row_bytes;
} octavo_mask_bits;

/* What one run reads and writes. On a GPU every pointer leads to memory that the GPU reads. Request
 * r's queries follow those of request r - 1; in the layouts without pages so do its keys. `out`,
 * `lse` and `workspace` share no byte with each other or with an input. What a plan's problem does
 * not have stays as OCTAVO_ARGUMENTS_INIT leaves it. */
typedef struct octavo_arguments {
  size_t struct_size;
  octavo_tensor q;              /* [total_q, hq, d] */
  octavo_tensor k;              /* [pages, page_size, hkv, d], or [1, total_kv, hkv, d] */
  octavo_tensor v;              /* [pages, page_size, hkv, dv], or [1, total_kv, hkv, dv] */
  octavo_page_table page_table; /* paged layouts only */
  int64_t requests;
  const int32_t* q_lens;      /* [requests] tokens */
  const int32_t* kv_lens;     /* [requests] tokens */
  octavo_tensor out;          /* [total_q, hq, dv] */
  octavo_tensor lse;          /* [total_q, hq] f32 natural logs, where the problem asks for it */
  octavo_floats sinks;        /* [hq] natural-log logits, where the problem has sinks */
  octavo_floats alibi_slopes; /* [hq], where the problem has ALiBi */
  octavo_mask_bits mask_bits; /* where the mask is bits */
  octavo_scale q_scale;       /* factors of the stored q, k and v */
  octavo_scale k_scale;
  octavo_scale v_scale;
  octavo_scale out_scale; /* factor of the result before it is stored */
  /* On the CPU aligned to 64 bytes; if null, a run allocates its own. On a GPU aligned to 256. */
  void* workspace;
  size_t workspace_size; /* bytes: at least octavo_plan_workspace_size */
} octavo_arguments;

#define OCTAVO_TENSOR_INIT                            \
  {                                                   \
    NULL, OCTAVO_F32, 0, {0, 0, 0, 0}, { 0, 0, 0, 0 } \
  }
#define OCTAVO_SCALE_INIT \
  {                       \
    1.0f, { NULL, 0 }     \
  }
#define OCTAVO_ARGUMENTS_INIT                                                              \
  {                                                                                        \
    sizeof(octavo_arguments), OCTAVO_TENSOR_INIT, OCTAVO_TENSOR_INIT, OCTAVO_TENSOR_INIT,  \
        {NULL, 0, 0, 0}, 0, NULL, NULL, OCTAVO_TENSOR_INIT, OCTAVO_TENSOR_INIT, {NULL, 0}, \
        {NULL, 0}, {NULL, 0, 0}, OCTAVO_SCALE_INIT, OCTAVO_SCALE_INIT, OCTAVO_SCALE_INIT,  \
        OCTAVO_SCALE_INIT, NULL, 0                                                         \
  }

/* A dense row-major view of the first `rank` extents of `shape`; `rank` is from 1 to 4. */
static inline octavo_tensor octavo_dense(void* data, octavo_dtype dtype, int32_t rank,
                                         const int64_t* shape) {
  octavo_tensor tensor = OCTAVO_TENSOR_INIT;
  tensor.data = data;
  tensor.dtype = dtype;
  tensor.rank = rank;
  uint64_t step = 1; /* unsigned: absurd extents wrap here, and are refused by the run */
  for (int32_t axis = rank < 4 ? rank : 4; axis-- > 0;) {
    tensor.shape[axis] = shape[axis];
    tensor.stride[axis] = (int64_t)step;
    step *= (uint64_t)shape[axis];
  }
  return tensor;
}

/* A task of a run. Never throws; `task_context` is the one given to parallel_for. */
typedef void (*octavo_task)(void* task_context, int64_t index);

/* The caller's threads. Results do not depend on them. */
typedef struct octavo_executor {
  size_t struct_size;
  int32_t concurrency; /* threads, at least 1 */
  void* context;       /* given to parallel_for; may be null */
  /* Calls task(task_context, i) once for each i in [0, count), in any order and on any threads, and
   * returns when all have returned. */
  void (*parallel_for)(void* context, int64_t count, octavo_task task, void* task_context);
} octavo_executor;

#define OCTAVO_EXECUTOR_INIT \
  { sizeof(octavo_executor), 1, NULL, NULL }

/* Computes attention. A null `executor` stands for the process's own threads, and with a plan for a
 * GPU for its default stream; a plan for a GPU takes no other executor.
 * OCTAVO_INVALID_ARGUMENT if the arguments do not fit the plan, page ids included; no output was
 * touched then. An executor that leaves tasks out or repeats them is the same code, but found only
 * after outputs were written. */
OCTAVO_EXPORT octavo_code octavo_plan_run(const octavo_plan* plan,
                                          const octavo_arguments* arguments,
                                          const octavo_executor* executor);

/* Enqueues the work on a stream of the plan's GPU: a CUstream or cudaStream_t of the device's
 * primary context, null for the default stream. Every pointer of the arguments leads to memory that
 * the GPU reads, lengths and page ids too, and the workspace is given where the plan needs one. The
 * call neither allocates nor waits, and a CUDA graph may capture it. OCTAVO_INVALID_ARGUMENT, with
 * nothing enqueued, if shapes, memory or the stream do not fit the plan; OCTAVO_DEVICE_ERROR if the
 * driver refuses. The host does not see lengths and page ids: what breaks the plan's bounds is
 * undefined, unless the environment variable OCTAVO_CUDA_CHECK is 1: the device checks them first,
 * and the call waits for it. */
OCTAVO_EXPORT octavo_code octavo_plan_run_on_stream(const octavo_plan* plan,
                                                    const octavo_arguments* arguments,
                                                    void* stream);

#ifdef __cplusplus
}
#endif
