// Takes a batch apart at a prefix that its requests share: the rows of all as those of one request
// over the prefix, and what each has after it. One warp.
#include "cascade/params.h"
#include "common/place.h"

namespace octavo::cuda {

extern "C" __global__ void __launch_bounds__(kWarp)
    octavo_cascade_split(const __grid_constant__ CascadeParams p) {
  const int lane = static_cast<int>(threadIdx.x);
  int32_t rows = 0;
  int32_t first = p.requests;  // that has queries
  for (int32_t r = lane; r < p.requests; r += kWarp) {
    rows += p.q_lens[r];
    if (p.q_lens[r] > 0) first = min(first, r);
    p.suffix_lens[r] = max(0, p.kv_lens[r] - p.prefix);
  }
  for (int step = kWarp / 2; step > 0; step /= 2) {
    rows += __shfl_xor_sync(kAllLanes, rows, step);
    first = min(first, __shfl_xor_sync(kAllLanes, first, step));
  }
  if (lane == 0) {
    *p.rows = rows;
    *p.prefix_len = p.prefix;
  }
  if (first == p.requests) return;
  for (int32_t c = lane; c < p.prefix_pages; c += kWarp) {
    p.prefix_table[c] = p.page_table[first * p.page_table_stride + c];
  }
}

}  // namespace octavo::cuda
