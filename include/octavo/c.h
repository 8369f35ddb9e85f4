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
  OCTAVO_DEVICE_ERROR = 7,     /* the device's driver refused or failed a call */
  OCTAVO_OUT_OF_PAGES = 8      /* a cache has too few pages; it did nothing */
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

/* The longest `prefix=` that a problem may have for a batch whose page table is in host memory:
 * tokens in leading pages that are the same for all `requests` that have queries, and that come
 * before the queries; 0 if they share none. octavo/prefix.h says more. */
OCTAVO_EXPORT octavo_code octavo_common_prefix(const octavo_page_table* page_table,
                                               int64_t requests, const int32_t* q_lens,
                                               const int32_t* kv_lens, int64_t page_size,
                                               int64_t* prefix);

/* ---- Results over parts of the keys */

/* LSE = log(sum_i exp(lse_i)), O = sum_i exp(lse_i - LSE) * O_i, in the order of the parts;
 * octavo/merge_states.h says more. Outputs share no memory with inputs. */
typedef struct octavo_merge_arguments {
  size_t struct_size;
  octavo_tensor parts;     /* [parts, rows, heads, dv] */
  octavo_tensor parts_lse; /* [parts, rows, heads] f32 natural logs; -inf: the part adds nothing */
  octavo_tensor out;       /* [rows, heads, dv], of any dtype */
  octavo_tensor lse; /* [rows, heads] f32; as OCTAVO_MERGE_ARGUMENTS_INIT leaves it: unwanted */
} octavo_merge_arguments;

#define OCTAVO_MERGE_ARGUMENTS_INIT                                                             \
  {                                                                                             \
    sizeof(octavo_merge_arguments), OCTAVO_TENSOR_INIT, OCTAVO_TENSOR_INIT, OCTAVO_TENSOR_INIT, \
        OCTAVO_TENSOR_INIT                                                                      \
  }

/* Merges in host memory; `executor` as in octavo_plan_run. OCTAVO_INVALID_ARGUMENT before an output
 * is touched. */
OCTAVO_EXPORT octavo_code octavo_merge_states(const octavo_merge_arguments* arguments,
                                              const octavo_executor* executor);

/* The same on a stream of a GPU, "cuda:N", in memory that it reads; as octavo_plan_run_on_stream.
 */
OCTAVO_EXPORT octavo_code octavo_merge_states_on_stream(const octavo_merge_arguments* arguments,
                                                        const char* device, void* stream);

/* ---- Caches
 *
 * A paged cache of keys and values in the host's memory or a GPU's; octavo/kv_cache.h says more of
 * what its functions mean. A step of an engine: octavo_kv_cache_admit and _reserve make room for
 * tokens, _append stores their K and V in every layer, _tables gives what octavo_plan_run takes.
 * Requests that begin with the same tokens share pages.
 *
 * Threads may share a cache. A request that was freed or never was is OCTAVO_INVALID_ARGUMENT. A
 * call that fails has changed nothing. */

/* A cache; its pointer is a name, as a plan's is. */
typedef struct octavo_kv_cache octavo_kv_cache;

/* Names a request of a cache. No name is used twice; 0 is none. */
typedef uint64_t octavo_kv_request;

typedef struct octavo_kv_cache_config {
  size_t struct_size;
  const char* problem; /* a paged problem whose K and V the cache holds: kv, hkv, d, dv, page,
                          order, pool, mask. Pages that the mask hides for good are given back. */
  int64_t pages;
  int64_t layers;
  int32_t share_prefixes; /* 0: requests never share pages unless they are forked */
  /* The caller's memory, or null: K and V of each layer [pages, page_size, hkv, d or dv]. */
  const octavo_tensor* k;
  const octavo_tensor* v;
  const char* device; /* whose memory it is: "cpu" or "cuda:N"; null: the CPU's */
  void* stream; /* of a GPU: where K and V are stored and shared pages copied; null: the default */
} octavo_kv_cache_config;

#define OCTAVO_KV_CACHE_CONFIG_INIT \
  { sizeof(octavo_kv_cache_config), NULL, 0, 1, 1, NULL, NULL, NULL, NULL }

/* OCTAVO_INVALID_PROBLEM or OCTAVO_INVALID_ARGUMENT with what is wrong; of a GPU also
 * OCTAVO_UNAVAILABLE and OCTAVO_DEVICE_ERROR. `*cache` is then null. */
OCTAVO_EXPORT octavo_code octavo_kv_cache_create(const octavo_kv_cache_config* config,
                                                 octavo_kv_cache** cache);

/* Calls that have begun on other threads end well; later uses of the handle are errors. */
OCTAVO_EXPORT octavo_code octavo_kv_cache_destroy(octavo_kv_cache* cache);

/* The views of a layer's K and V, for octavo_arguments. */
OCTAVO_EXPORT octavo_code octavo_kv_cache_views(const octavo_kv_cache* cache, int64_t layer,
                                                octavo_tensor* k, octavo_tensor* v);

/* A new request with the pages that the cache has of its prompt's `count` tokens: `*cached` of them
 * need not be computed. Of the others it reserves up to `tokens`; -1 for all. Requests share pages
 * only where their salts, `salt_size` bytes, are the same. OCTAVO_OUT_OF_PAGES if it does not fit:
 * `*missing` is how many pages there are too few. `cached` and `missing` may be null. */
OCTAVO_EXPORT octavo_code octavo_kv_cache_admit(octavo_kv_cache* cache, const int32_t* prompt,
                                                int64_t count, const void* salt, size_t salt_size,
                                                int64_t tokens, octavo_kv_request* request,
                                                int64_t* cached, int64_t* missing);

/* Room for the request's next `count` tokens. Where `tokens` is null, the cache is not told them,
 * and no other request shares their pages. OCTAVO_OUT_OF_PAGES as in octavo_kv_cache_admit. */
OCTAVO_EXPORT octavo_code octavo_kv_cache_reserve(octavo_kv_cache* cache, octavo_kv_request request,
                                                  const int32_t* tokens, int64_t count,
                                                  int64_t* missing);

/* A rotary embedding: which dims of a head turn together, and by how much. */
enum {
  OCTAVO_ROPE_INTERLEAVED = 0, /* c and c + 1 */
  OCTAVO_ROPE_HALVES = 1       /* c and c + rotary / 2 */
};
typedef struct octavo_rope {
  int32_t style;
  octavo_tensor table;      /* f32 [positions, rotary]: rotary / 2 cosines, then as many sines */
  const int32_t* positions; /* of each row; in an append null: each token's place in its request */
  int64_t positions_count;
} octavo_rope;

typedef struct octavo_kv_append {
  size_t struct_size;
  int64_t layer;
  const octavo_kv_request* requests; /* each once */
  int64_t requests_count;
  /* [rows, hkv, d] and [rows, hkv, dv], of any dtypes: of each request in turn, all tokens that
   * were reserved and not yet written in this layer. */
  octavo_tensor k;
  octavo_tensor v;
  octavo_scale k_scale; /* x / scale is stored; `values` if there are any: one or hkv */
  octavo_scale v_scale;
  const octavo_rope* rope; /* turns K before it is stored; may be null */
} octavo_kv_append;

#define OCTAVO_KV_APPEND_INIT                                                     \
  {                                                                               \
    sizeof(octavo_kv_append), 0, NULL, 0, OCTAVO_TENSOR_INIT, OCTAVO_TENSOR_INIT, \
        OCTAVO_SCALE_INIT, OCTAVO_SCALE_INIT, NULL                                \
  }

/* Stores K and V of tokens that were reserved, on the executor's threads; null: the process's. A
 * cache on a GPU takes no executor: it enqueues this on its stream, and K, V, the rotation and
 * scales' values are in memory that the GPU reads. */
OCTAVO_EXPORT octavo_code octavo_kv_cache_append(octavo_kv_cache* cache,
                                                 const octavo_kv_append* append,
                                                 const octavo_executor* executor);

/* Says that K and V of the first `tokens` tokens were written in all layers, by other means. */
OCTAVO_EXPORT octavo_code octavo_kv_cache_mark_written(octavo_kv_cache* cache,
                                                       octavo_kv_request request, int64_t tokens);

/* A new request with the same tokens, in the same pages; all must be written. */
OCTAVO_EXPORT octavo_code octavo_kv_cache_fork(octavo_kv_cache* cache, octavo_kv_request request,
                                               octavo_kv_request* child);

/* Keeps the first `tokens` tokens of a request. */
OCTAVO_EXPORT octavo_code octavo_kv_cache_truncate(octavo_kv_cache* cache,
                                                   octavo_kv_request request, int64_t tokens);

/* Ends a request. Its full pages stay until their room is needed. */
OCTAVO_EXPORT octavo_code octavo_kv_cache_free(octavo_kv_cache* cache, octavo_kv_request request);

/* Tokens of a request that were reserved, and that are written in all layers. */
OCTAVO_EXPORT octavo_code octavo_kv_cache_lengths(const octavo_kv_cache* cache,
                                                  octavo_kv_request request, int64_t* reserved,
                                                  int64_t* written);

/* The page table and lengths of some requests, for octavo_arguments. Sets `*columns` to the columns
 * that they need. `page_ids` [count, capacity] and `kv_lens` [count] are written where they are not
 * null; too small a capacity is OCTAVO_INVALID_ARGUMENT, and neither is touched. */
OCTAVO_EXPORT octavo_code octavo_kv_cache_tables(const octavo_kv_cache* cache,
                                                 const octavo_kv_request* requests, int64_t count,
                                                 int32_t* page_ids, int64_t capacity,
                                                 int32_t* kv_lens, int64_t* columns);

typedef struct octavo_kv_statistics {
  size_t struct_size;
  int64_t pages;    /* free + cached + in_use */
  int64_t free;     /* pages that hold nothing */
  int64_t cached;   /* that no request uses, kept for prefixes to come */
  int64_t in_use;   /* by one request or several */
  int64_t requests; /* not freed yet */
  /* Since the cache was made: */
  int64_t prompt_tokens; /* of requests that were admitted */
  int64_t cached_tokens; /* of those: found in the cache */
  int64_t evictions;     /* cached pages that were given to others */
  int64_t copies;        /* shared last pages that were copied before a write */
  int64_t refusals;      /* for want of pages */
} octavo_kv_statistics;

#define OCTAVO_KV_STATISTICS_INIT \
  { sizeof(octavo_kv_statistics), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0 }

OCTAVO_EXPORT octavo_code octavo_kv_cache_statistics(const octavo_kv_cache* cache,
                                                     octavo_kv_statistics* statistics);

/* Writes cos and sin of position * base^(-2 i / rotary) to `table` [positions, rotary], for
 * octavo_rope. OCTAVO_INVALID_ARGUMENT for an odd `rotary` or a base that is not positive. */
OCTAVO_EXPORT octavo_code octavo_rope_table(int64_t positions, int64_t rotary, double base,
                                            float* table);

/* Turns the rows of x [rows, heads, d] in place, on the process's threads: queries, as an append
 * turns keys. The positions must be given. */
OCTAVO_EXPORT octavo_code octavo_rotate(const octavo_rope* rope, const octavo_tensor* x);

#ifdef __cplusplus
}
#endif
