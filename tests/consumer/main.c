/* Two queries over two keys of one page. Keys are all zero, so a query's output is the mean of the
 * values it sees. */
#include <math.h>
#include <stdio.h>

#include "octavo/c.h"

enum { kWidth = 8, kTokens = 2 };

int main(void) {
  octavo_plan* plan = NULL;
  if (octavo_plan_create("paged pool=split q=f32 hq=1 d=8 page=2 mask=causal q_len=2 kv_len=2",
                         "cpu", NULL, &plan) != OCTAVO_OK) {
    printf("%s\n", octavo_last_error());
    return 1;
  }
  float q[kTokens][kWidth], out[kTokens][kWidth];
  float k[kTokens][kWidth], v[kTokens][kWidth];
  for (int i = 0; i < kWidth; ++i) {
    for (int j = 0; j < kTokens; ++j) {
      q[j][i] = 1.0f;
      k[j][i] = 0.0f;
      v[j][i] = (float)(10 * j + i);
    }
  }
  const int32_t page = 0;
  const int32_t length = kTokens;
  octavo_arguments arguments = OCTAVO_ARGUMENTS_INIT;
  arguments.q = octavo_dense(q, OCTAVO_F32, 3, (const int64_t[]){kTokens, 1, kWidth});
  arguments.k = octavo_dense(k, OCTAVO_F32, 4, (const int64_t[]){1, kTokens, 1, kWidth});
  arguments.v = octavo_dense(v, OCTAVO_F32, 4, (const int64_t[]){1, kTokens, 1, kWidth});
  arguments.page_table = (octavo_page_table){&page, 1, 1, 1};
  arguments.requests = 1;
  arguments.q_lens = &length;
  arguments.kv_lens = &length;
  arguments.out = octavo_dense(out, OCTAVO_F32, 3, (const int64_t[]){kTokens, 1, kWidth});
  if (octavo_plan_run(plan, &arguments, NULL) != OCTAVO_OK) {
    printf("%s\n", octavo_last_error());
    return 1;
  }
  for (int i = 0; i < kWidth; ++i) {
    if (!(fabsf(out[0][i] - v[0][i]) <= 1e-5f) ||
        !(fabsf(out[1][i] - (v[0][i] + v[1][i]) / 2) <= 1e-5f)) {
      printf("column %d is %g, %g\n", i, out[0][i], out[1][i]);
      return 1;
    }
  }
  return octavo_plan_destroy(plan) == OCTAVO_OK ? 0 : 1;
}
