// Merges the partial results of splits, in an order that follows from their number: warp w of a
// thread block takes splits w, w + kWarps ..., and the warps' states merge in the warps' order.
#include "ptx/grid.h"
#include "tiled/result.h"

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

  __device__ void add(RowState part, const float4& part_sums) {
    const Rescale r(state.reference, part.reference);
    state = {r.reference, state.sum * r.old_factor + part.sum * r.new_factor};
    sums.x = sums.x * r.old_factor + part_sums.x * r.new_factor;
    sums.y = sums.y * r.old_factor + part_sums.y * r.new_factor;
    sums.z = sums.z * r.old_factor + part_sums.z * r.new_factor;
    sums.w = sums.w * r.old_factor + part_sums.w * r.new_factor;
  }
};

/// This warp's share of a row's splits. `first`: the row's state and sums in the first of them,
/// with `stride` floats from split to split.
__device__ Merge merge_splits(const RowState* states, const float* sums, int64_t stride,
                              int32_t splits) {
  Merge merge;
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  for (int32_t s = warp; s < splits; s += kWarps * kAhead) {
    RowState part[kAhead];
    float4 part_sums[kAhead];
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      const int64_t at = (s + i * kWarps) * stride;
      if (s + i * kWarps >= splits) continue;
      part[i] = *reinterpret_cast<const RowState*>(reinterpret_cast<const float*>(states) + at);
      part_sums[i] = *reinterpret_cast<const float4*>(sums + at);
    }
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      if (s + i * kWarps < splits) merge.add(part[i], part_sums[i]);
    }
  }
  return merge;
}

/// The shares of all warps, for the first one.
__device__ Merge merge_warps(const Merge& share) {
  __shared__ RowState states[kWarps];
  __shared__ float4 sums[kWarps][kWarp];
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  __syncthreads();  // the first warp has read those of the columns before
  states[warp] = share.state;
  sums[warp][lane] = share.sums;
  __syncthreads();
  Merge merge = share;
  for (int w = 1; w < kWarps; ++w) merge.add(states[w], sums[w][lane]);
  return merge;
}

/// The splits of a tile of rows.
struct Splits {
  RowTile tile;
  int32_t kv_head;
  int64_t first;  ///< number of the first one's partial result
  int32_t count;  ///< 0: there is nothing to merge
};

/// By a warp.
__device__ Splits find_splits(const TiledParams& p) {
  Splits found{};
  Place place =
      find_place(p.attention, static_cast<int32_t>(blockIdx.x), [&](int32_t q_len, int32_t kv_len) {
        const Tiling tiling = tiling_of<kRows, kKeys>(p, q_len, kv_len);
        return tiling.splits > 1 ? tiling.tiles : 0;
      });
  if (place.request < 0) return found;
  place.unit *= tiling_of<kRows, kKeys>(p, place.q_len, place.kv_len).splits;
  found.tile = row_tile<kRows, kKeys>(p, place);
  if (!found.tile.is_split()) return found;
  found.kv_head = static_cast<int32_t>(blockIdx.y);
  found.first =
      partials_before<kRows, kKeys>(p, place.request) + place.unit + found.tile.first_split;
  found.count = found.tile.end_split - found.tile.first_split;
  return found;
}

}  // namespace

/// Grid: tiles of rows that may be split, KV heads, thread blocks that share the rows of a tile.
extern "C" __global__ void __launch_bounds__(kWarps* kWarp)
    octavo_merge_splits(const __grid_constant__ TiledParams p) {
  let_next_grid_begin();
  __shared__ Splits splits;
  if (threadIdx.x < kWarp) {
    const Splits found = find_splits(p);
    if (threadIdx.x == 0) splits = found;
  }
  wait_for_grids_before();
  __syncthreads();
  if (splits.count == 0) return;
  const AttentionParams& a = p.attention;
  const RowTile& tile = splits.tile;
  const int32_t kv_head = splits.kv_head;
  const Partial first = partial_at<kRows>(p, splits.first, kv_head);
  const int64_t stride = partial_at<kRows>(p, splits.first + 1, kv_head).sums - first.sums;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  for (int row = static_cast<int>(blockIdx.z); row < tile.rows; row += p.merge_blocks) {
    for (int column = 0; column < a.dv; column += kWarp * 4) {
      const int c = column + lane * 4;
      const int64_t at = int64_t{row} * first.pitch + min(c, first.pitch - 4);
      const Merge merge =
          merge_warps(merge_splits(first.states + row, first.sums + at, stride, splits.count));
      if (threadIdx.x >= kWarp || c >= a.dv) continue;
      const RowHead to(p, tile, kv_head, row);
      const float factor = finish_row(a, to, merge.state, value_factor(a, kv_head), c == 0);
      const float results[4] = {merge.sums.x, merge.sums.y, merge.sums.z, merge.sums.w};
      for (int i = 0; i < min(4, a.dv - c); ++i) {
        store(Type{p.out_type}, a.out, to.out_offset(a) + c + i, results[i] * factor);
      }
    }
  }
}

}  // namespace octavo::cuda
