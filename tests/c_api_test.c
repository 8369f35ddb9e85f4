#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "octavo/c.h"

static int checks = 0;
static int failures = 0;

#define EXPECT(condition)                                                     \
  do {                                                                        \
    ++checks;                                                                 \
    if (!(condition)) {                                                       \
      ++failures;                                                             \
      fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition); \
    }                                                                         \
  } while (0)

/* The call returns the code, and the message says this. */
#define EXPECT_ERROR(call, code, says)                                                       \
  do {                                                                                       \
    const octavo_code got = (call);                                                          \
    ++checks;                                                                                \
    if (got != (code) || strstr(octavo_last_error(), says) == NULL) {                        \
      ++failures;                                                                            \
      fprintf(stderr, "%s:%d: %s returned %d, \"%s\": not %s, \"%s\"\n", __FILE__, __LINE__, \
              #call, (int)got, octavo_last_error(), #code, says);                            \
    }                                                                                        \
  } while (0)

#define EXPECT_OK(call) EXPECT((call) == OCTAVO_OK)

static const char kSimple[] = "paged q=bf16 hq=2 hkv=1 d=64 mask=causal q_len=1 kv_len=9";

static octavo_plan* create(const char* problem, const char* kernel) {
  octavo_plan* plan = NULL;
  if (octavo_plan_create(problem, "cpu", kernel, &plan) != OCTAVO_OK) {
    fprintf(stderr, "%s: %s\n", problem, octavo_last_error());
    exit(1);
  }
  return plan;
}

/* ---- A run that has everything: two requests in pages, each optional argument in use. */

enum { kRequests = 2, kTotalQ = 4, kHq = 4, kHkv = 2, kD = 8, kPage = 4, kPages = 5, kColumns = 3 };
enum { kOutCount = kTotalQ * kHq * kD, kLseCount = kTotalQ * kHq };

static const char kFull[] =
    "paged pool=split q=f32 hq=4 hkv=2 d=8 page=4 mask=bits sinks alibi lse q_scale=tensor "
    "k_scale=head v_scale=head out_scale=tensor q_len=3,1 kv_len=5,9";

typedef struct Case {
  float q[kTotalQ][kHq][kD];
  float k[kPages][kPage][kHkv][kD];
  float v[kPages][kPage][kHkv][kD];
  int32_t table[kRequests][kColumns];
  int32_t q_lens[kRequests];
  int32_t kv_lens[kRequests];
  float sinks[kHq];
  float slopes[kHq];
  uint8_t bits[kTotalQ][2];
  float q_scale, out_scale;
  float k_scale[kHkv], v_scale[kHkv];
  float out[kTotalQ][kHq][kD];
  float lse[kTotalQ][kHq];
} Case;

static void fill(float* values, int count, uint32_t seed) {
  for (int i = 0; i < count; ++i) {
    seed = seed * 1664525u + 1013904223u;
    values[i] = (float)(seed >> 8) / (1 << 23) - 1.0f;
  }
}

static void poison(Case* c) {
  for (int i = 0; i < kOutCount; ++i) (&c->out[0][0][0])[i] = -777.0f;
  for (int i = 0; i < kLseCount; ++i) (&c->lse[0][0])[i] = -777.0f;
}

static bool poisoned(const Case* c) {
  bool all = true;
  for (int i = 0; i < kOutCount; ++i) all = all && (&c->out[0][0][0])[i] == -777.0f;
  for (int i = 0; i < kLseCount; ++i) all = all && (&c->lse[0][0])[i] == -777.0f;
  return all;
}

static Case make_case(void) {
  Case c = {.table = {{3, 0, -1}, {4, 1, 2}},
            .q_lens = {3, 1},
            .kv_lens = {5, 9},
            .sinks = {0.5f, -1.0f, 2.0f, 0.0f},
            .slopes = {0.5f, 0.25f, 0.125f, 0.0625f},
            .bits = {{0x0d, 0}, {0x1f, 0}, {0x00, 0}, {0xa5, 0x01}},
            .q_scale = 1.5f,
            .out_scale = 0.75f,
            .k_scale = {0.5f, 2.0f},
            .v_scale = {3.0f, 0.25f}};
  fill(&c.q[0][0][0], kTotalQ * kHq * kD, 1);
  fill(&c.k[0][0][0][0], kPages * kPage * kHkv * kD, 2);
  fill(&c.v[0][0][0][0], kPages * kPage * kHkv * kD, 3);
  poison(&c);
  return c;
}

static octavo_arguments arguments_of(Case* c) {
  octavo_arguments a = OCTAVO_ARGUMENTS_INIT;
  a.q = octavo_dense(c->q, OCTAVO_F32, 3, (const int64_t[]){kTotalQ, kHq, kD});
  a.k = octavo_dense(c->k, OCTAVO_F32, 4, (const int64_t[]){kPages, kPage, kHkv, kD});
  a.v = octavo_dense(c->v, OCTAVO_F32, 4, (const int64_t[]){kPages, kPage, kHkv, kD});
  a.page_table = (octavo_page_table){c->table[0], kRequests, kColumns, kColumns};
  a.requests = kRequests;
  a.q_lens = c->q_lens;
  a.kv_lens = c->kv_lens;
  a.out = octavo_dense(c->out, OCTAVO_F32, 3, (const int64_t[]){kTotalQ, kHq, kD});
  a.lse = octavo_dense(c->lse, OCTAVO_F32, 2, (const int64_t[]){kTotalQ, kHq});
  a.sinks = (octavo_floats){c->sinks, kHq};
  a.alibi_slopes = (octavo_floats){c->slopes, kHq};
  a.mask_bits = (octavo_mask_bits){c->bits[0], kTotalQ, 2};
  a.q_scale.values = (octavo_floats){&c->q_scale, 1};
  a.k_scale.values = (octavo_floats){c->k_scale, kHkv};
  a.v_scale.values = (octavo_floats){c->v_scale, kHkv};
  a.out_scale.values = (octavo_floats){&c->out_scale, 1};
  return a;
}

/* Compares one row of one head with the formula in docs/semantics.md. */
static void expect_row(const Case* c, int request, int token, int row, int head) {
  const int group = head / (kHq / kHkv);
  const int position = c->kv_lens[request] - c->q_lens[request] + token;
  double sum = exp(c->sinks[head]);
  double out[kD] = {0};
  for (int j = 0; j < c->kv_lens[request]; ++j) {
    if (!(c->bits[row][j / 8] >> (j % 8) & 1)) continue;
    const int page = c->table[request][j / kPage];
    double dot = 0;
    for (int i = 0; i < kD; ++i) {
      dot += (double)c->q[row][head][i] * c->k[page][j % kPage][group][i];
    }
    const double score = dot / sqrt(kD) * c->q_scale * c->k_scale[group];
    const double weight = exp(score + c->slopes[head] * (j - position));
    sum += weight;
    for (int i = 0; i < kD; ++i) out[i] += weight * c->v[page][j % kPage][group][i];
  }
  for (int i = 0; i < kD; ++i) {
    const double expected = out[i] / sum * c->v_scale[group] * c->out_scale;
    EXPECT(fabs(c->out[row][head][i] - expected) <= 1e-5);
  }
  EXPECT(fabs(c->lse[row][head] - log(sum)) <= 1e-5);
}

static void expect_case(const Case* c) {
  int row = 0;
  for (int request = 0; request < kRequests; ++request) {
    for (int token = 0; token < c->q_lens[request]; ++token, ++row) {
      for (int head = 0; head < kHq; ++head) expect_row(c, request, token, row, head);
    }
  }
}

/* ---- Tests */

static void test_version(void) { EXPECT(strcmp(octavo_version(), OCTAVO_VERSION) == 0); }

static void test_dense(void) {
  int data = 0;
  const int64_t shape[] = {2, 3, 4, 5};
  const octavo_tensor tensor = octavo_dense(&data, OCTAVO_E5M2, 3, shape);
  EXPECT(tensor.data == &data && tensor.dtype == OCTAVO_E5M2 && tensor.rank == 3);
  EXPECT(tensor.shape[0] == 2 && tensor.shape[2] == 4 && tensor.shape[3] == 0);
  EXPECT(tensor.stride[0] == 12 && tensor.stride[1] == 4 && tensor.stride[2] == 1);
  EXPECT(octavo_dense(&data, OCTAVO_F32, 9, shape).rank == 9); /* for a run to refuse */
}

static void test_texts(void) {
  char text[4096];
  char again[4096];
  size_t size = 0;
  EXPECT_OK(octavo_problem_print(kSimple, NULL, 0, &size));
  EXPECT_OK(octavo_problem_print(kSimple, text, size, NULL));
  EXPECT(strlen(text) + 1 == size);
  EXPECT_OK(octavo_problem_print(text, again, sizeof again, &size));
  EXPECT(strcmp(text, again) == 0);

  EXPECT_OK(octavo_kernel_names("cpu", text, sizeof text, &size));
  EXPECT(strstr(text, "cpu_portable\n") != NULL && strstr(text, "cpu_reference\n") != NULL);
  EXPECT_OK(octavo_explain(kSimple, "cpu", NULL, text, sizeof text, NULL));
  EXPECT(strstr(text, "<- selected") != NULL);
  EXPECT_OK(octavo_explain(kSimple, "cpu", "cpu_reference", text, sizeof text, NULL));
  EXPECT(strstr(text, "cpu_reference: can") != NULL && strstr(text, "<- forced") != NULL);
}

static void test_text_errors(void) {
  char text[8] = "before";
  size_t size = 0;
  EXPECT_ERROR(octavo_problem_print(kSimple, text, sizeof text, &size), OCTAVO_INVALID_ARGUMENT,
               "capacity=8: the text needs ");
  EXPECT(size > sizeof text && strcmp(text, "before") == 0);
  EXPECT_ERROR(octavo_problem_print(kSimple, text, 0, NULL), OCTAVO_INVALID_ARGUMENT, "capacity=0");
  EXPECT_ERROR(octavo_problem_print(kSimple, NULL, 0, NULL), OCTAVO_INVALID_ARGUMENT,
               "text and size are null pointers");
  EXPECT_ERROR(octavo_problem_print(NULL, text, sizeof text, &size), OCTAVO_INVALID_ARGUMENT,
               "problem is a null pointer");
  EXPECT_ERROR(octavo_problem_print("", NULL, 0, &size), OCTAVO_INVALID_PROBLEM, "");
  EXPECT_ERROR(octavo_problem_print("paged q=bf17 hq=1 d=64 q_len=1 kv_len=1", NULL, 0, &size),
               OCTAVO_INVALID_PROBLEM, "bf17");
  EXPECT_ERROR(
      octavo_problem_print("paged q=bf16 hq=7 hkv=2 d=64 q_len=1 kv_len=1", NULL, 0, &size),
      OCTAVO_INVALID_PROBLEM, "hq=7");

  EXPECT_ERROR(octavo_kernel_names(NULL, NULL, 0, &size), OCTAVO_INVALID_ARGUMENT,
               "device is a null pointer");
  EXPECT_ERROR(octavo_kernel_names("abacus", NULL, 0, &size), OCTAVO_UNAVAILABLE, "abacus");
  EXPECT_ERROR(octavo_kernel_names("cpu", NULL, 0, NULL), OCTAVO_INVALID_ARGUMENT, "text and size");
  EXPECT_ERROR(octavo_kernel_names("cpu", text, 1, NULL), OCTAVO_INVALID_ARGUMENT, "capacity=1");

  EXPECT_ERROR(octavo_explain(NULL, "cpu", NULL, NULL, 0, &size), OCTAVO_INVALID_ARGUMENT,
               "problem is a null pointer");
  EXPECT_ERROR(octavo_explain(kSimple, NULL, NULL, NULL, 0, &size), OCTAVO_INVALID_ARGUMENT,
               "device is a null pointer");
  EXPECT_ERROR(octavo_explain("pages", "cpu", NULL, NULL, 0, &size), OCTAVO_INVALID_PROBLEM,
               "pages");
  EXPECT_ERROR(octavo_explain(kSimple, "abacus", NULL, NULL, 0, &size), OCTAVO_UNAVAILABLE,
               "abacus");
  EXPECT_ERROR(octavo_explain(kSimple, "cpu", "cpu_imaginary", NULL, 0, &size), OCTAVO_UNSUPPORTED,
               "cpu_imaginary");
  EXPECT_ERROR(octavo_explain(kSimple, "cpu", NULL, NULL, 0, NULL), OCTAVO_INVALID_ARGUMENT,
               "text and size");
  EXPECT_ERROR(octavo_explain(kSimple, "cpu", NULL, text, 1, NULL), OCTAVO_INVALID_ARGUMENT,
               "capacity=1");
}

static void test_plan(void) {
  char text[256];
  char canonical[256];
  size_t size = 0;
  octavo_plan* plan = create(kSimple, "cpu_reference");
  EXPECT_OK(octavo_plan_kernel(plan, NULL, 0, &size));
  EXPECT(size == sizeof "cpu_reference");
  EXPECT_OK(octavo_plan_kernel(plan, text, size, &size));
  EXPECT(strcmp(text, "cpu_reference") == 0);
  EXPECT_OK(octavo_problem_print(kSimple, canonical, sizeof canonical, NULL));
  EXPECT_OK(octavo_plan_problem(plan, text, sizeof text, NULL));
  EXPECT(strcmp(text, canonical) == 0);
  EXPECT_OK(octavo_plan_workspace_size(plan, &size));

  EXPECT_ERROR(octavo_plan_kernel(plan, NULL, 0, NULL), OCTAVO_INVALID_ARGUMENT, "text and size");
  EXPECT_ERROR(octavo_plan_kernel(plan, text, 3, NULL), OCTAVO_INVALID_ARGUMENT, "capacity=3");
  EXPECT_ERROR(octavo_plan_problem(plan, NULL, 0, NULL), OCTAVO_INVALID_ARGUMENT, "text and size");
  EXPECT_ERROR(octavo_plan_problem(plan, text, 3, NULL), OCTAVO_INVALID_ARGUMENT, "capacity=3");
  EXPECT_ERROR(octavo_plan_workspace_size(plan, NULL), OCTAVO_INVALID_ARGUMENT,
               "size is a null pointer");
  EXPECT_OK(octavo_plan_destroy(plan));
}

static void test_create_errors(void) {
  int unrelated = 0;
  octavo_plan* plan = (octavo_plan*)&unrelated;
  EXPECT_ERROR(octavo_plan_create(kSimple, "cpu", NULL, NULL), OCTAVO_INVALID_ARGUMENT,
               "plan is a null pointer");
  EXPECT_ERROR(octavo_plan_create(NULL, "cpu", NULL, &plan), OCTAVO_INVALID_ARGUMENT,
               "problem is a null pointer");
  EXPECT(plan == NULL);
  EXPECT_ERROR(octavo_plan_create(kSimple, NULL, NULL, &plan), OCTAVO_INVALID_ARGUMENT,
               "device is a null pointer");
  EXPECT_ERROR(octavo_plan_create("paged q=bf16", "cpu", NULL, &plan), OCTAVO_INVALID_PROBLEM, "");
  EXPECT_ERROR(octavo_plan_create(kSimple, "abacus", NULL, &plan), OCTAVO_UNAVAILABLE, "abacus");
  EXPECT_ERROR(octavo_plan_create(kSimple, "cpu", "cpu_imaginary", &plan), OCTAVO_UNSUPPORTED,
               "cpu_imaginary");
  EXPECT_ERROR(
      octavo_plan_create("paged q=f32 hq=1 d=4 q_len=1 kv_len=9", "cpu", "cpu_portable", &plan),
      OCTAVO_UNSUPPORTED, "cpu_portable: d must be");
  EXPECT(plan == NULL);
}

/* Each function refuses the handle. */
static void expect_dead(octavo_plan* plan, const char* says) {
  Case c = make_case();
  const octavo_arguments arguments = arguments_of(&c);
  char text[64];
  size_t size = 0;
  EXPECT_ERROR(octavo_plan_kernel(plan, text, sizeof text, &size), OCTAVO_INVALID_ARGUMENT, says);
  EXPECT_ERROR(octavo_plan_problem(plan, text, sizeof text, &size), OCTAVO_INVALID_ARGUMENT, says);
  EXPECT_ERROR(octavo_plan_workspace_size(plan, &size), OCTAVO_INVALID_ARGUMENT, says);
  EXPECT_ERROR(octavo_plan_run(plan, &arguments, NULL), OCTAVO_INVALID_ARGUMENT, says);
  EXPECT_ERROR(octavo_plan_destroy(plan), OCTAVO_INVALID_ARGUMENT, says);
  EXPECT(poisoned(&c));
}

static void test_handles(void) {
  int unrelated = 0;
  expect_dead(NULL, "plan is a null pointer");
  expect_dead((octavo_plan*)&unrelated, "plan was destroyed, or is no plan");
  octavo_plan* first = create(kFull, NULL);
  EXPECT_OK(octavo_plan_destroy(first));
  octavo_plan* second = create(kFull, NULL);
  EXPECT(first != second);
  expect_dead(first, "plan was destroyed, or is no plan");
  EXPECT_OK(octavo_plan_destroy(second));
}

static void test_run(void) {
  char names[1024];
  EXPECT_OK(octavo_kernel_names("cpu", names, sizeof names, NULL));
  int kernels = 0;
  for (char* name = strtok(names, "\n"); name != NULL; name = strtok(NULL, "\n")) {
    octavo_plan* plan = NULL;
    const octavo_code code = octavo_plan_create(kFull, "cpu", name, &plan);
    if (code == OCTAVO_UNSUPPORTED) continue;
    EXPECT(code == OCTAVO_OK);
    Case c = make_case();
    octavo_arguments arguments = arguments_of(&c);
    EXPECT_OK(octavo_plan_run(plan, &arguments, NULL));
    expect_case(&c);

    poison(&c); /* a smaller batch in the same plan, and nothing at all */
    arguments.requests = 0;
    arguments.q_lens = arguments.kv_lens = NULL;
    EXPECT_OK(octavo_plan_run(plan, &arguments, NULL));
    EXPECT(poisoned(&c));
    EXPECT_OK(octavo_plan_destroy(plan));
    ++kernels;
  }
  EXPECT(kernels >= 2);
}

static void test_run_errors(void) {
  Case c = make_case();
  octavo_plan* plan = create(kFull, NULL);
  EXPECT_ERROR(octavo_plan_run(plan, NULL, NULL), OCTAVO_INVALID_ARGUMENT,
               "arguments is a null pointer");
#define EXPECT_REFUSED(spoil, says)                                               \
  do {                                                                            \
    octavo_arguments a = arguments_of(&c);                                        \
    spoil;                                                                        \
    EXPECT_ERROR(octavo_plan_run(plan, &a, NULL), OCTAVO_INVALID_ARGUMENT, says); \
    EXPECT(poisoned(&c));                                                         \
  } while (0)
  EXPECT_REFUSED(a.struct_size = 0, "arguments.struct_size=0");
  EXPECT_REFUSED(++a.struct_size, "arguments.struct_size=");
  EXPECT_REFUSED(a.q.rank = 4, "q.rank=4: must be 3");
  EXPECT_REFUSED(a.k.rank = 3, "k.rank=3: must be 4");
  EXPECT_REFUSED(a.v.rank = 0, "v.rank=0: must be 4");
  EXPECT_REFUSED(a.out.rank = -1, "out.rank=-1: must be 3");
  EXPECT_REFUSED(a.lse.rank = 1, "lse.rank=1: must be 2");
  EXPECT_REFUSED(a.q.dtype = -1, "q.dtype=-1");
  EXPECT_REFUSED(a.k.dtype = 5, "k.dtype=5");
  EXPECT_REFUSED(a.v.dtype = 1 << 30, "v.dtype=1073741824");
  EXPECT_REFUSED(a.out.dtype = 99, "out.dtype=99");
  EXPECT_REFUSED(a.lse.dtype = 99, "lse.dtype=99");
  EXPECT_REFUSED(a.q.dtype = OCTAVO_BF16, "q is bf16");
  EXPECT_REFUSED(a.q.data = NULL, "q is a null pointer");
  EXPECT_REFUSED(a.k.data = NULL, "k is a null pointer");
  EXPECT_REFUSED(a.v.data = NULL, "v is a null pointer");
  EXPECT_REFUSED(a.out.data = NULL, "out is a null pointer");
  EXPECT_REFUSED(a.lse.data = NULL, "lse is a null pointer");
  EXPECT_REFUSED(a.lse = (octavo_tensor)OCTAVO_TENSOR_INIT, "lse.shape[1]");
  EXPECT_REFUSED(a.q.shape[1] = 3, "q.shape[1]");
  EXPECT_REFUSED(a.out.stride[2] = 2, "out.stride[2]");
  EXPECT_REFUSED(a.requests = -1, "q_lens has -1 values");
  EXPECT_REFUSED(a.requests = 3, "q_lens has 3 requests");
  EXPECT_REFUSED(a.q_lens = NULL, "q_lens is a null pointer");
  EXPECT_REFUSED(a.kv_lens = NULL, "kv_lens is a null pointer");
  EXPECT_REFUSED(a.page_table.data = NULL, "page_table is a null pointer");
  EXPECT_REFUSED(a.page_table.requests = 1, "page_table has 1 rows");
  EXPECT_REFUSED(a.page_table.columns = 2, "page_table has 2 columns");
  EXPECT_REFUSED(a.page_table.stride = 2, "page_table.stride=2");
  EXPECT_REFUSED(a.k.shape[0] = a.v.shape[0] = 4, "page_table[1][0]=4");
  EXPECT_REFUSED(a.sinks.data = NULL, "sinks is a null pointer");
  EXPECT_REFUSED(a.sinks.count = -1, "sinks has -1 values");
  EXPECT_REFUSED(a.sinks.count = 3, "sinks (size) is 3");
  EXPECT_REFUSED(a.alibi_slopes.data = NULL, "alibi_slopes is a null pointer");
  EXPECT_REFUSED(a.alibi_slopes.count = 0, "alibi_slopes (size) is 0");
  EXPECT_REFUSED(a.mask_bits.data = NULL, "mask_bits is a null pointer");
  EXPECT_REFUSED(a.mask_bits.rows = 3, "mask_bits has 3 rows");
  EXPECT_REFUSED(a.mask_bits.row_bytes = 1, "mask_bits.row_bytes=1");
  EXPECT_REFUSED(a.q_scale.values.data = NULL, "q_scale.values is a null pointer");
  EXPECT_REFUSED(a.k_scale.values.count = 1, "k_scale.values");
  EXPECT_REFUSED(a.v_scale.values.count = -5, "v_scale has -5 values");
  EXPECT_REFUSED(a.out_scale.values.count = 0, "out_scale.values");
  EXPECT_REFUSED(a.workspace_size = 64, "workspace");
#undef EXPECT_REFUSED
  EXPECT_OK(octavo_plan_destroy(plan));
}

/* ---- Workspace */

static const char kDecode[] =
    "paged q=bf16 kv=bf16 hq=4 hkv=1 d=64 page=16 mask=causal q_len=1 kv_len=16384";

/* Runs the plan, whose problem is kDecode, with this workspace. */
static octavo_code decode(const octavo_plan* plan, void* workspace, size_t workspace_size,
                          uint16_t* out) {
  enum { kTokens = 16384, kTokensOfPage = 16, kAllPages = kTokens / kTokensOfPage, kWidth = 64 };
  const int64_t pool_count = (int64_t)kTokens * 2 * kWidth;
  uint16_t* pool = malloc((size_t)pool_count * sizeof *pool);
  int32_t* table = malloc(kAllPages * sizeof *table);
  uint16_t q[4 * kWidth];
  if (pool == NULL || table == NULL) exit(1);
  for (int64_t i = 0; i < pool_count; ++i) pool[i] = (uint16_t)(0x3f00 + i * 7919 % 128);
  for (int i = 0; i < 4 * kWidth; ++i) q[i] = (uint16_t)(0x3e00 + i % 128);
  for (int i = 0; i < kAllPages; ++i) table[i] = kAllPages - 1 - i;

  const int32_t q_len = 1;
  const int32_t kv_len = kTokens;
  octavo_arguments a = OCTAVO_ARGUMENTS_INIT;
  a.q = octavo_dense(q, OCTAVO_BF16, 3, (const int64_t[]){1, 4, kWidth});
  a.k = octavo_dense(pool, OCTAVO_BF16, 4, (const int64_t[]){kAllPages, kTokensOfPage, 1, kWidth});
  a.k.stride[0] *= 2; /* pages of K and V alternate */
  a.v = a.k;
  a.v.data = pool + kTokensOfPage * kWidth;
  a.page_table = (octavo_page_table){table, 1, kAllPages, kAllPages};
  a.requests = 1;
  a.q_lens = &q_len;
  a.kv_lens = &kv_len;
  a.out = octavo_dense(out, OCTAVO_BF16, 3, (const int64_t[]){1, 4, kWidth});
  a.workspace = workspace;
  a.workspace_size = workspace_size;
  const octavo_code code = octavo_plan_run(plan, &a, NULL);
  free(pool);
  free(table);
  return code;
}

static void test_workspace(void) {
  char names[1024];
  size_t size = 0;
  octavo_plan* plan = NULL;
  EXPECT_OK(octavo_kernel_names("cpu", names, sizeof names, NULL));
  for (char* name = strtok(names, "\n"); name != NULL && size == 0; name = strtok(NULL, "\n")) {
    if (octavo_plan_create(kDecode, "cpu", name, &plan) != OCTAVO_OK) continue;
    EXPECT_OK(octavo_plan_workspace_size(plan, &size));
    if (size == 0) EXPECT_OK(octavo_plan_destroy(plan));
  }
  EXPECT(size > 0); /* else no kernel is left to test this with: find another problem */
  if (size == 0) return;

  uint16_t own[4 * 64] = {0};
  uint16_t out[4 * 64] = {0};
  const uint16_t untouched[4 * 64] = {0};
  char* memory = aligned_alloc(64, (size + 127) / 64 * 64);
  if (memory == NULL) exit(1);
  EXPECT_ERROR(decode(plan, memory, size - 1, out), OCTAVO_INVALID_ARGUMENT, "the plan needs");
  EXPECT_ERROR(decode(plan, memory, 1, out), OCTAVO_INVALID_ARGUMENT, "workspace has 1 bytes");
  EXPECT_ERROR(decode(plan, memory, 0, out), OCTAVO_INVALID_ARGUMENT, "workspace has 0 bytes");
  EXPECT_ERROR(decode(plan, NULL, size, out), OCTAVO_INVALID_ARGUMENT,
               "workspace is a null pointer");
  EXPECT_ERROR(decode(plan, memory + 1, size, out), OCTAVO_INVALID_ARGUMENT, "aligned to 64");
  EXPECT(memcmp(out, untouched, sizeof out) == 0);
  EXPECT_OK(decode(plan, memory, size, out));
  EXPECT_OK(decode(plan, NULL, 0, own));
  EXPECT(memcmp(out, untouched, sizeof out) != 0 && memcmp(out, own, sizeof out) == 0);
  free(memory);
  EXPECT_OK(octavo_plan_destroy(plan));
}

/* ---- Executors */

typedef struct Loop {
  octavo_task task;
  void* task_context;
  int64_t count;
  atomic_llong next;
} Loop;

static void* work(void* context) {
  Loop* loop = context;
  for (int64_t i = loop->next++; i < loop->count; i = loop->next++) {
    loop->task(loop->task_context, i);
  }
  return NULL;
}

static void on_threads(void* context, int64_t count, octavo_task task, void* task_context) {
  Loop loop = {task, task_context, count, 0};
  pthread_t threads[3];
  for (int i = 0; i < 3; ++i) {
    if (pthread_create(&threads[i], NULL, work, &loop) != 0) exit(1);
  }
  for (int i = 0; i < 3; ++i) pthread_join(threads[i], NULL);
  ++*(int*)context;
}

static void in_reverse(void* context, int64_t count, octavo_task task, void* task_context) {
  (void)context;
  while (count-- > 0) task(task_context, count);
}

static void without_the_last(void* context, int64_t count, octavo_task task, void* task_context) {
  in_reverse(context, count - 1, task, task_context);
}

static void with_the_first_twice(void* context, int64_t count, octavo_task task,
                                 void* task_context) {
  in_reverse(context, count, task, task_context);
  task(task_context, 0);
}

static void with_one_too_many(void* context, int64_t count, octavo_task task, void* task_context) {
  in_reverse(context, count + 1, task, task_context);
}

static void with_one_below(void* context, int64_t count, octavo_task task, void* task_context) {
  in_reverse(context, count, task, task_context);
  task(task_context, -1);
}

/* Destroys the plan that is running. */
static void destroying(void* context, int64_t count, octavo_task task, void* task_context) {
  EXPECT_OK(octavo_plan_destroy(*(octavo_plan**)context));
  in_reverse(NULL, count, task, task_context);
}

static void test_executors(void) {
  Case c = make_case();
  const octavo_arguments arguments = arguments_of(&c);
  octavo_plan* plan = create(kFull, NULL);
  int loops = 0;
  octavo_executor executor = OCTAVO_EXECUTOR_INIT;
  executor.concurrency = 3;
  executor.context = &loops;
  executor.parallel_for = on_threads;
  EXPECT_OK(octavo_plan_run(plan, &arguments, &executor));
  EXPECT(loops >= 1);
  expect_case(&c);

  poison(&c);
  executor.parallel_for = in_reverse;
  EXPECT_OK(octavo_plan_run(plan, &arguments, &executor));
  expect_case(&c);

  poison(&c);
#define EXPECT_REFUSED(spoil, says)                                                     \
  do {                                                                                  \
    octavo_executor e = executor;                                                       \
    spoil;                                                                              \
    EXPECT_ERROR(octavo_plan_run(plan, &arguments, &e), OCTAVO_INVALID_ARGUMENT, says); \
  } while (0)
  EXPECT_REFUSED(e.struct_size = 0, "executor.struct_size=0");
  EXPECT_REFUSED(e.struct_size = sizeof e + 8, "executor.struct_size=");
  EXPECT_REFUSED(e.concurrency = 0, "executor.concurrency=0");
  EXPECT_REFUSED(e.concurrency = -4, "executor.concurrency=-4");
  EXPECT_REFUSED(e.parallel_for = NULL, "executor.parallel_for is a null pointer");
  EXPECT(poisoned(&c));
  EXPECT_REFUSED(e.parallel_for = without_the_last, "executor.parallel_for finished ");
  EXPECT_REFUSED(e.parallel_for = with_the_first_twice, "executor.parallel_for called task 0 of");
  EXPECT_REFUSED(e.parallel_for = with_one_too_many, "executor.parallel_for called task ");
  EXPECT_REFUSED(e.parallel_for = with_one_below, "executor.parallel_for called task -1 of");
#undef EXPECT_REFUSED

  poison(&c);
  executor.context = &plan;
  executor.parallel_for = destroying;
  EXPECT_OK(octavo_plan_run(plan, &arguments, &executor));
  expect_case(&c);
  expect_dead(plan, "plan was destroyed");
}

/* ---- Threads */

typedef struct Runner {
  const octavo_plan* plan;
  atomic_int runs;
} Runner;

static void* run_until_refused(void* context) {
  Runner* runner = context;
  Case c = make_case();
  const octavo_arguments arguments = arguments_of(&c);
  octavo_code code = OCTAVO_OK;
  while ((code = octavo_plan_run(runner->plan, &arguments, NULL)) == OCTAVO_OK) ++runner->runs;
  const bool right =
      code == OCTAVO_INVALID_ARGUMENT && strstr(octavo_last_error(), "plan was destroyed") != NULL;
  return right ? NULL : context;
}

static void test_destroy_while_running(void) {
  for (int round = 0; round < 20; ++round) {
    octavo_plan* plan = create(kFull, NULL);
    Runner runners[3];
    pthread_t threads[3];
    for (int i = 0; i < 3; ++i) {
      runners[i].plan = plan;
      atomic_init(&runners[i].runs, 0);
      if (pthread_create(&threads[i], NULL, run_until_refused, &runners[i]) != 0) exit(1);
    }
    for (int i = 0; i < 3; ++i) {
      while (runners[i].runs < 3) {
      }
    }
    EXPECT_OK(octavo_plan_destroy(plan));
    for (int i = 0; i < 3; ++i) {
      void* wrong = NULL;
      pthread_join(threads[i], &wrong);
      EXPECT(wrong == NULL);
    }
  }
}

static void* fail_elsewhere(void* before) {
  *(bool*)before = strcmp(octavo_last_error(), "") == 0;
  octavo_plan_destroy(NULL);
  return NULL;
}

static void test_message_of_each_thread(void) {
  size_t size = 0;
  bool empty = false;
  pthread_t thread;
  EXPECT_ERROR(octavo_kernel_names("abacus", NULL, 0, &size), OCTAVO_UNAVAILABLE, "abacus");
  if (pthread_create(&thread, NULL, fail_elsewhere, &empty) != 0) exit(1);
  pthread_join(thread, NULL);
  EXPECT(empty);
  EXPECT(strstr(octavo_last_error(), "abacus") != NULL);
  EXPECT_OK(octavo_kernel_names("cpu", NULL, 0, &size));
  EXPECT(strstr(octavo_last_error(), "abacus") != NULL); /* success leaves the last error */
}

/* ---- Results over parts of the keys, and prefixes that requests share. */

static void test_merge_states(void) {
  float parts[2][1][1][2] = {{{{1, 2}}}, {{{3, 6}}}};
  float parts_lse[2][1][1] = {{{0.5f}}, {{0.5f}}};
  float out[2] = {0, 0};
  float lse = 0;
  octavo_merge_arguments a = OCTAVO_MERGE_ARGUMENTS_INIT;
  a.parts = octavo_dense(parts, OCTAVO_F32, 4, (const int64_t[]){2, 1, 1, 2});
  a.parts_lse = octavo_dense(parts_lse, OCTAVO_F32, 3, (const int64_t[]){2, 1, 1});
  a.out = octavo_dense(out, OCTAVO_F32, 3, (const int64_t[]){1, 1, 2});
  EXPECT_OK(octavo_merge_states(&a, NULL));
  EXPECT(out[0] == 2 && out[1] == 4 && lse == 0);
  a.lse = octavo_dense(&lse, OCTAVO_F32, 2, (const int64_t[]){1, 1});
  octavo_executor executor = OCTAVO_EXECUTOR_INIT;
  executor.parallel_for = in_reverse;
  EXPECT_OK(octavo_merge_states(&a, &executor));
  EXPECT(fabsf(lse - (0.5f + logf(2))) < 1e-6f);
  EXPECT_ERROR(octavo_merge_states_on_stream(&a, "cpu", NULL), OCTAVO_INVALID_ARGUMENT,
               "device is cpu");
  EXPECT_ERROR(octavo_merge_states_on_stream(&a, NULL, NULL), OCTAVO_INVALID_ARGUMENT,
               "device is a null pointer");
  a.out.rank = 2;
  EXPECT_ERROR(octavo_merge_states(&a, NULL), OCTAVO_INVALID_ARGUMENT, "out.rank=2: must be 3");
  a.struct_size = 3;
  EXPECT_ERROR(octavo_merge_states(&a, NULL), OCTAVO_INVALID_ARGUMENT, "arguments.struct_size=3");
  EXPECT_ERROR(octavo_merge_states(NULL, NULL), OCTAVO_INVALID_ARGUMENT,
               "arguments is a null pointer");
}

static void test_common_prefix(void) {
  const int32_t ids[] = {4, 5, 6, /**/ 4, 5, 7};
  const int32_t q_lens[] = {1, 1};
  const int32_t kv_lens[] = {12, 9};
  const octavo_page_table table = {ids, 2, 3, 3};
  int64_t prefix = -1;
  EXPECT_OK(octavo_common_prefix(&table, 2, q_lens, kv_lens, 4, &prefix));
  EXPECT(prefix == 8);
  EXPECT_OK(octavo_common_prefix(&table, 0, NULL, NULL, 4, &prefix));
  EXPECT(prefix == 0);
  EXPECT_ERROR(octavo_common_prefix(&table, 3, q_lens, kv_lens, 4, &prefix),
               OCTAVO_INVALID_ARGUMENT, "page_table has 2 rows: q_lens has 3 requests");
  EXPECT_ERROR(octavo_common_prefix(&table, 2, q_lens, NULL, 4, &prefix), OCTAVO_INVALID_ARGUMENT,
               "kv_lens is a null pointer");
  EXPECT_ERROR(octavo_common_prefix(&table, -1, q_lens, kv_lens, 4, &prefix),
               OCTAVO_INVALID_ARGUMENT, "requests=-1");
}

int main(void) {
  EXPECT(strcmp(octavo_last_error(), "") == 0);
  test_version();
  test_dense();
  test_texts();
  test_text_errors();
  test_plan();
  test_create_errors();
  test_handles();
  test_run();
  test_run_errors();
  test_workspace();
  test_executors();
  test_destroy_while_running();
  test_message_of_each_thread();
  test_merge_states();
  test_common_prefix();
  printf("%d checks, %d failed\n", checks, failures);
  return failures == 0 ? 0 : 1;
}
