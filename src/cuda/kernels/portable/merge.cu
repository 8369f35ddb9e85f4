// Merges the partial results of splits, in the order of the splits. Launched over the same units as
// portable/attend.cu: the units of a tile share its rows among them.
#include "portable/result.h"

namespace octavo::cuda {
namespace {

constexpr int kRows = OCTAVO_ROWS;
constexpr int kKeys = OCTAVO_KEYS;
constexpr int kWarps = 4;
constexpr int kAhead = 8;  // splits whose loads are under way together

/// What two states are multiplied by to have one unit.
struct Rescale {
  float old_factor;
  float new_factor;
  float reference;

  __device__ Rescale(float old_reference, float new_reference)
      : reference(fmaxf(old_reference, new_reference)) {
    const float base = reference == -infinity() ? 0.0f : reference;
    old_factor = exp2_fast(old_reference - base);
    new_factor = exp2_fast(new_reference - base);
  }
};

/// Four columns of a row, merged over the splits.
struct Merge {
  RowState state{-infinity(), 0};
  float4 sums{0, 0, 0, 0};

  __device__ void add(RowState part, float4 part_sums) {
    const Rescale r(state.reference, part.reference);
    state = {r.reference, state.sum * r.old_factor + part.sum * r.new_factor};
    sums.x = sums.x * r.old_factor + part_sums.x * r.new_factor;
    sums.y = sums.y * r.old_factor + part_sums.y * r.new_factor;
    sums.z = sums.z * r.old_factor + part_sums.z * r.new_factor;
    sums.w = sums.w * r.old_factor + part_sums.w * r.new_factor;
  }
};

__device__ Merge merge_row(const PortableParams& p, int64_t first, int32_t splits, int32_t kv_head,
                           int row, int column) {
  Merge merge;
  for (int32_t s = 0; s < splits; s += kAhead) {
    RowState states[kAhead];
    float4 sums[kAhead];
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      if (s + i >= splits) continue;
      const Partial part = partial_at<kRows>(p, first + s + i, kv_head);
      states[i] = part.states[row];
      sums[i] = *reinterpret_cast<const float4*>(part.sums + int64_t{row} * part.pitch + column);
    }
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      if (s + i < splits) merge.add(states[i], sums[i]);
    }
  }
  return merge;
}

}  // namespace

/// Grid: as that of octavo_portable, without slices.
extern "C" __global__ void __launch_bounds__(kWarps* kWarp)
    octavo_portable_merge(const __grid_constant__ PortableParams p) {
  const AttentionParams& a = p.attention;
  const Place place =
      find_place(a, static_cast<int32_t>(blockIdx.x), [&](int32_t q_len, int32_t kv_len) {
        return tiling_of<kRows, kKeys>(p, q_len, kv_len).units();
      });
  if (place.request < 0) return;
  const RowTile tile = row_tile<kRows, kKeys>(p, place);
  const int32_t splits = tile.end_split - tile.first_split;
  if (splits <= 1) return;
  const int32_t kv_head = static_cast<int32_t>(blockIdx.y);
  const int32_t unit = place.unit % tile.tiling.splits;
  const int64_t first =
      partials_before<kRows, kKeys>(p, place.request) + place.unit - unit + tile.first_split;
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int columns = (a.dv + 3) / 4;
  for (int row = unit * kWarps + warp; row < tile.rows; row += tile.tiling.splits * kWarps) {
    const RowHead at(p, tile, kv_head, row);
    for (int c = lane; c < columns; c += kWarp) {
      const Merge merge = merge_row(p, first, splits, kv_head, row, c * 4);
      const float factor = finish_row(a, at, merge.state, value_factor(a, kv_head), c == 0);
      const float results[4] = {merge.sums.x, merge.sums.y, merge.sums.z, merge.sums.w};
      for (int i = 0; i < min(4, a.dv - c * 4); ++i) {
        store(Type{p.out_type}, a.out, at.out_offset(a) + c * 4 + i, results[i] * factor);
      }
    }
  }
}

}  // namespace octavo::cuda
