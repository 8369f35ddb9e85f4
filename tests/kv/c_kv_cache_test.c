#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "octavo/c.h"

static int checks = 0;
static int failures = 0;

static void expect(bool condition, const char* text, int line) {
  ++checks;
  if (condition) return;
  ++failures;
  fprintf(stderr, "%s:%d: not so: %s (last error: %s)\n", __FILE__, line, text,
          octavo_last_error());
}

#define EXPECT(condition) expect(condition, #condition, __LINE__)
#define EXPECT_OK(call) EXPECT((call) == OCTAVO_OK)
#define EXPECT_ERROR(call, code, says) \
  EXPECT((call) == (code) && strstr(octavo_last_error(), says) != NULL)

enum { kPages = 6, kPage = 4, kHq = 4, kHkv = 2, kD = 8, kPrompt = 10 };

static const char kProblem[] =
    "paged pool=split page=4 q=f32 hq=4 hkv=2 d=8 mask=causal q_len=10 kv_len=10";
static const char kRagged[] = "ragged q=f32 hq=4 hkv=2 d=8 mask=causal q_len=10 kv_len=10";
static const int32_t kTokens[kPrompt] = {5, 6, 7, 8, 9, 10, 11, 12, 13, 14};

static void fill(float* values, size_t count, unsigned seed) {
  for (size_t i = 0; i < count; ++i) {
    seed = seed * 1664525u + 1013904223u;
    values[i] = (float)(seed >> 8) / (float)(1 << 23) - 1.0f;
  }
}

static octavo_kv_cache* create(void) {
  octavo_kv_cache_config config = OCTAVO_KV_CACHE_CONFIG_INIT;
  config.problem = kProblem;
  config.pages = kPages;
  octavo_kv_cache* cache = NULL;
  if (octavo_kv_cache_create(&config, &cache) != OCTAVO_OK) {
    fprintf(stderr, "%s\n", octavo_last_error());
    exit(1);
  }
  return cache;
}

static octavo_kv_append append_of(const octavo_kv_request* request, float* k, float* v,
                                  int64_t rows) {
  octavo_kv_append append = OCTAVO_KV_APPEND_INIT;
  append.requests = request;
  append.requests_count = 1;
  append.k = octavo_dense(k, OCTAVO_F32, 3, (const int64_t[]){rows, kHkv, kD});
  append.v = octavo_dense(v, OCTAVO_F32, 3, (const int64_t[]){rows, kHkv, kD});
  return append;
}

static void run(const char* problem, octavo_arguments arguments, float* q, float* out) {
  octavo_plan* plan = NULL;
  EXPECT_OK(octavo_plan_create(problem, "cpu", "cpu_reference", &plan));
  static const int32_t q_len = kPrompt;
  arguments.q = octavo_dense(q, OCTAVO_F32, 3, (const int64_t[]){kPrompt, kHq, kD});
  arguments.out = octavo_dense(out, OCTAVO_F32, 3, (const int64_t[]){kPrompt, kHq, kD});
  arguments.requests = 1;
  arguments.q_lens = arguments.kv_lens = &q_len;
  EXPECT_OK(octavo_plan_run(plan, &arguments, NULL));
  EXPECT_OK(octavo_plan_destroy(plan));
}

/* Attention over the cache is that over the rows that were appended, the keys turned. */
static void test_step(void) {
  static float q[kPrompt * kHq * kD], k[kPrompt * kHkv * kD], v[kPrompt * kHkv * kD];
  static float expected[kPrompt * kHq * kD], out[kPrompt * kHq * kD], table[kPrompt * kD];
  fill(q, sizeof q / sizeof *q, 1);
  fill(k, sizeof k / sizeof *k, 2);
  fill(v, sizeof v / sizeof *v, 3);
  octavo_kv_cache* cache = create();
  octavo_kv_request request = 0;
  int64_t cached = -1;
  EXPECT_OK(octavo_kv_cache_admit(cache, kTokens, kPrompt, NULL, 0, -1, &request, &cached, NULL));
  EXPECT(cached == 0);
  EXPECT_OK(octavo_rope_table(kPrompt, kD, 10000, table));
  octavo_rope rope = {OCTAVO_ROPE_HALVES,
                      octavo_dense(table, OCTAVO_F32, 2, (const int64_t[]){kPrompt, kD}), NULL, 0};
  octavo_kv_append append = append_of(&request, k, v, kPrompt);
  append.rope = &rope;
  EXPECT_OK(octavo_kv_cache_append(cache, &append, NULL));

  int64_t columns = 0;
  int32_t page_ids[4] = {-1, -1, -1, -1};
  int32_t kv_len = 0;
  EXPECT_OK(octavo_kv_cache_tables(cache, &request, 1, NULL, 0, NULL, &columns));
  EXPECT(columns == 3);
  EXPECT_ERROR(octavo_kv_cache_tables(cache, &request, 1, page_ids, 2, &kv_len, NULL),
               OCTAVO_INVALID_ARGUMENT, "capacity=2: the requests need 3 columns");
  EXPECT(page_ids[0] == -1 && kv_len == 0);
  EXPECT_OK(octavo_kv_cache_tables(cache, &request, 1, page_ids, 4, &kv_len, NULL));
  EXPECT(kv_len == kPrompt);
  octavo_arguments arguments = OCTAVO_ARGUMENTS_INIT;
  EXPECT_OK(octavo_kv_cache_views(cache, 0, &arguments.k, &arguments.v));
  arguments.page_table = (octavo_page_table){page_ids, 1, 4, 4};
  run(kProblem, arguments, q, out);

  int32_t positions[kPrompt];
  for (int32_t i = 0; i < kPrompt; ++i) positions[i] = i;
  rope.positions = positions;
  rope.positions_count = kPrompt;
  EXPECT_OK(octavo_rotate(&rope, &append.k));
  octavo_arguments ragged = OCTAVO_ARGUMENTS_INIT;
  ragged.k = octavo_dense(k, OCTAVO_F32, 4, (const int64_t[]){1, kPrompt, kHkv, kD});
  ragged.v = octavo_dense(v, OCTAVO_F32, 4, (const int64_t[]){1, kPrompt, kHkv, kD});
  run(kRagged, ragged, q, expected);
  EXPECT(memcmp(out, expected, sizeof out) == 0);
  EXPECT_OK(octavo_kv_cache_destroy(cache));
}

/* Prefixes, forks, truncation and refusals. */
static void test_requests(void) {
  static float rows[kPrompt * kHkv * kD];
  octavo_kv_cache* cache = create();
  octavo_kv_request a = 0, b = 0, c = 0, none = 77;
  int64_t cached = -1, missing = -1, reserved = -1, written = -1;
  EXPECT_OK(octavo_kv_cache_admit(cache, kTokens, kPrompt, "x", 1, -1, &a, &cached, &missing));
  EXPECT(a == 1 && cached == 0 && missing == 0);
  octavo_kv_append append = append_of(&a, rows, rows, kPrompt);
  EXPECT_OK(octavo_kv_cache_append(cache, &append, NULL));
  EXPECT_OK(octavo_kv_cache_admit(cache, kTokens, kPrompt, "x", 1, 0, &b, &cached, NULL));
  EXPECT(cached == 8);
  EXPECT_OK(octavo_kv_cache_admit(cache, kTokens, kPrompt, "yy", 2, -1, &none, NULL, NULL));
  EXPECT_ERROR(octavo_kv_cache_admit(cache, kTokens, kPrompt, "z", 1, -1, &none, NULL, &missing),
               OCTAVO_OUT_OF_PAGES, "missing=3");
  EXPECT(none == 0 && missing == 3);
  EXPECT_ERROR(octavo_kv_cache_reserve(cache, b, NULL, 5, &missing), OCTAVO_OUT_OF_PAGES,
               "missing=2");
  EXPECT_OK(octavo_kv_cache_lengths(cache, b, &reserved, &written));
  EXPECT(reserved == 8 && written == 8);

  EXPECT_OK(octavo_kv_cache_fork(cache, a, &c));
  EXPECT_OK(octavo_kv_cache_truncate(cache, c, 8));
  EXPECT_ERROR(octavo_kv_cache_truncate(cache, c, 9), OCTAVO_INVALID_ARGUMENT,
               "tokens=9: must be from 0 to the 8");
  EXPECT_OK(octavo_kv_cache_free(cache, c));
  EXPECT_ERROR(octavo_kv_cache_free(cache, c), OCTAVO_INVALID_ARGUMENT, "was freed");
  EXPECT_ERROR(octavo_kv_cache_mark_written(cache, b, 9), OCTAVO_INVALID_ARGUMENT, "tokens=9");
  octavo_kv_statistics statistics = OCTAVO_KV_STATISTICS_INIT;
  EXPECT_OK(octavo_kv_cache_statistics(cache, &statistics));
  EXPECT(statistics.pages == kPages && statistics.in_use == kPages && statistics.requests == 3);
  EXPECT(statistics.cached_tokens == 8 && statistics.refusals == 2);
  EXPECT_OK(octavo_kv_cache_destroy(cache));
}

static void test_errors(void) {
  octavo_kv_cache* cache = create();
  octavo_kv_cache* other = cache;
  octavo_kv_cache_config config = OCTAVO_KV_CACHE_CONFIG_INIT;
  EXPECT_ERROR(octavo_kv_cache_create(&config, &other), OCTAVO_INVALID_ARGUMENT,
               "config.problem is a null pointer");
  EXPECT(other == NULL);
  config.problem = kRagged;
  EXPECT_ERROR(octavo_kv_cache_create(&config, &other), OCTAVO_INVALID_PROBLEM, "paged");
  config.problem = kProblem;
  EXPECT_ERROR(octavo_kv_cache_create(&config, &other), OCTAVO_INVALID_ARGUMENT, "pages=0");
  config.pages = 1;
  config.device = "abacus";
  EXPECT_ERROR(octavo_kv_cache_create(&config, &other), OCTAVO_UNAVAILABLE, "abacus");
  config.device = "cpu";
  config.stream = &config;
  EXPECT_ERROR(octavo_kv_cache_create(&config, &other), OCTAVO_INVALID_ARGUMENT,
               "stream is given: device=cpu has none");
  config.struct_size = 8;
  EXPECT_ERROR(octavo_kv_cache_create(&config, &other), OCTAVO_INVALID_ARGUMENT,
               "config.struct_size=8");
  octavo_kv_request request = 0;
  EXPECT_ERROR(octavo_kv_cache_admit(cache, NULL, 3, NULL, 0, -1, &request, NULL, NULL),
               OCTAVO_INVALID_ARGUMENT, "prompt is a null pointer");
  EXPECT_ERROR(octavo_kv_cache_admit(cache, kTokens, -1, NULL, 0, -1, &request, NULL, NULL),
               OCTAVO_INVALID_ARGUMENT, "prompt has -1 values");
  EXPECT_ERROR(octavo_kv_cache_admit(cache, kTokens, 3, NULL, 0, -1, NULL, NULL, NULL),
               OCTAVO_INVALID_ARGUMENT, "request is a null pointer");
  octavo_kv_append append = OCTAVO_KV_APPEND_INIT;
  append.struct_size = 1;
  EXPECT_ERROR(octavo_kv_cache_append(cache, &append, NULL), OCTAVO_INVALID_ARGUMENT,
               "append.struct_size=1");
  octavo_rope rope = {7, OCTAVO_TENSOR_INIT, NULL, 0};
  const octavo_tensor x = OCTAVO_TENSOR_INIT;
  EXPECT_ERROR(octavo_rotate(&rope, &x), OCTAVO_INVALID_ARGUMENT, "rope.style=7");
  EXPECT_ERROR(octavo_rope_table(1, 3, 10000, NULL), OCTAVO_INVALID_ARGUMENT, "rotary=3");
  EXPECT_OK(octavo_kv_cache_destroy(cache));
  EXPECT_ERROR(octavo_kv_cache_free(cache, 1), OCTAVO_INVALID_ARGUMENT, "cache was destroyed");
  EXPECT_ERROR(octavo_kv_cache_destroy(NULL), OCTAVO_INVALID_ARGUMENT, "cache is a null pointer");
}

int main(void) {
  test_step();
  test_requests();
  test_errors();
  printf("%d checks, %d failed\n", checks, failures);
  return failures == 0 ? 0 : 1;
}
