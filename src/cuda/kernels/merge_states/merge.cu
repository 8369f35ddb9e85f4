// Merges results over parts of the keys: a warp for each row and head, its lanes side by side in
// dv, the parts one after the other. A part whose weight is 0 is never read.
#include "common/elements.h"
#include "common/place.h"
#include "merge_states/params.h"

namespace octavo::cuda {
namespace {

/// One row of one head, in all parts.
struct MergedRow {
  const MergeStatesParams& p;
  int64_t row;
  int32_t head;

  __device__ float part_lse(int64_t part) const {
    return p
        .parts_lse[part * p.part_lse_stride + row * p.row_lse_stride + head * p.head_lse_stride];
  }
  /// exp(lse - largest), relative to the part of the largest LSE; a NaN stays one.
  __device__ float share(int64_t part, float largest) const {
    const float lse = part_lse(part);
    return lse == -infinity() ? 0.0f : expf(lse - largest);
  }

  __device__ void merge(int lane) const {
    float largest = -infinity();
    for (int64_t i = 0; i < p.parts_count; ++i) largest = fmaxf(largest, part_lse(i));
    float total = 0;
    for (int64_t i = 0; i < p.parts_count; ++i) total += share(i, largest);
    const int64_t to = row * p.out_row_stride + head * p.out_head_stride;
    for (int64_t c = lane; c < p.dv; c += kWarp) {
      store(Type{p.out_type}, p.out, to + c, column(c, largest, total));
    }
    if (p.lse != nullptr && lane == 0) {
      p.lse[row * p.lse_row_stride + head * p.lse_head_stride] =
          total == 0 ? -infinity() : largest + logf(total);
    }
  }

 private:
  __device__ float column(int64_t c, float largest, float total) const {
    float sum = 0;
    bool first = true;  // not 0 + a part's: that would lose the sign of -0
    for (int64_t i = 0; i < p.parts_count; ++i) {
      const float part = share(i, largest);
      const float weight = part == 0 ? 0.0f : part / total;
      if (weight == 0) continue;
      const int64_t from = i * p.part_stride + row * p.row_stride + head * p.head_stride;
      const float product = weight * load(Type{p.part_type}, p.parts, from + c);
      sum = first ? product : sum + product;
      first = false;
    }
    return sum;
  }
};

}  // namespace

/// Grid: rows times heads / kMergeWarps.
extern "C" __global__ void __launch_bounds__(kMergeWarps* kWarp)
    octavo_merge_states(const __grid_constant__ MergeStatesParams p) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int64_t rows = p.row_count == nullptr ? p.rows : min(p.rows, int64_t{*p.row_count});
  const unsigned i = blockIdx.x * kMergeWarps + threadIdx.x / kWarp;
  const unsigned heads = static_cast<unsigned>(p.heads);
  if (i / heads >= rows) return;
  MergedRow{p, i / heads, static_cast<int32_t>(i % heads)}.merge(lane);
}

}  // namespace octavo::cuda
