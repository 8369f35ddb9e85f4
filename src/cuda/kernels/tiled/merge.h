// Merges the partial results of a tile's rows: those of a group in their order, and then the
// groups'. It runs once where memory may be busy: short code, and many loads at once.
#pragma once

#include "ptx/cp_async.h"
#include "ptx/ldmatrix.h"
#include "ptx/packed.h"
#include "tiled/result.h"

namespace octavo::cuda {

/// Partial results, as many as `Parts` at a time, of each of `Threads` threads.
template <int Parts, int Threads>
struct alignas(16) MergeSpace {
  float4 sums[Parts][Threads];
  RowState states[Parts][Threads / kWarp];
};

/// Four columns of a row.
struct Merged {
  RowState state{-infinity(), 0};
  float4 sums{0, 0, 0, 0};

  __device__ void add(const RowState& part, const float4& part_sums) {
    const RowSum added(state, part);
    state = added.state;
    sums.x = added.of(sums.x, part_sums.x);
    sums.y = added.of(sums.y, part_sums.y);
    sums.z = added.of(sums.z, part_sums.z);
    sums.w = added.of(sums.w, part_sums.w);
  }
};

/// Of a row, the lane's columns from `column` on. All lanes of a warp call it; `exists`: the lane
/// has any. `from`: item 0's partial result.
template <int Parts, int Threads>
__device__ inline Merged merge_columns(const RowTile& tile, const Partial& from, int row,
                                       int column, bool exists, MergeSpace<Parts, Threads>& space) {
  static_assert(Parts <= kWarp);
  const auto thread = static_cast<int>(threadIdx.x);
  const int lane = thread % kWarp;
  const int warp = thread / kWarp;
  const int32_t group_items = tile.tiling.group / tile.tiling.together;
  int32_t left = group_items - tile.first_item % group_items;  // of the group
  Merged merged;
  Merged group;
#pragma unroll 1
  for (int32_t item = tile.first_item; item < tile.end_item; item += Parts) {
    const int parts = min(Parts, tile.end_item - item);
    __syncwarp();  // those before are read
#pragma unroll 1
    for (int i = 0; i < parts && exists; ++i) {
      copy_async_16(shared_address(&space.sums[i][thread]),
                    from.sums + int64_t{item + i} * from.unit_floats + row * from.pitch + column,
                    16);
    }
    commit_copies();
    if (lane < parts) {
      // Past L1, as copies are: other thread blocks wrote it.
      const float2 state = __ldcg(reinterpret_cast<const float2*>(
          from.states + int64_t{item + lane} * from.unit_floats / 2 + row));
      space.states[lane][warp] = {state.x, state.y};
    }
    wait_for_copies<0>();
    __syncwarp();
#pragma unroll 1
    for (int i = 0; i < parts; ++i) {
      group.add(space.states[i][warp], space.sums[i][thread]);
      if (--left > 0 && item + i + 1 < tile.end_item) continue;
      merged.add(group.state, group.sums);
      group = {};
      left = group_items;
    }
  }
  return merged;
}

/// By a warp. `tile`: of any unit.
template <int Parts, int Threads>
__device__ inline void merge_row(const TiledParams& p, const RowTile& tile, int32_t kv_head,
                                 int row, MergeSpace<Parts, Threads>& space) {
  constexpr int kColumns = 4;  // of a lane
  const AttentionParams& a = p.attention;
  const int32_t items = tile.tiling.items;
  const Partial from = partial_at(p, tile.partials + tile.place.unit / items * items, kv_head);
  const auto lane = static_cast<int>(threadIdx.x) % kWarp;
#pragma unroll 1
  for (int first = 0; first < a.dv; first += kWarp * kColumns) {
    const int column = first + lane * kColumns;
    const bool exists = column < a.dv;
    const Merged merged = merge_columns(tile, from, row, column, exists, space);
    if (!exists) continue;
    const RowHead to(p, tile, kv_head, row);
    const float factor = finish_row(a, to, merged.state, value_factor(a, kv_head), column == 0);
    const float4& sums = merged.sums;
    const float x[kColumns] = {sums.x * factor, sums.y * factor, sums.z * factor, sums.w * factor};
    const int64_t at = to.out_offset(a) + column;
    const Type type{p.out_type};
    const bool packed = p.out_whole && a.dv % kColumns == 0;
    auto* words = reinterpret_cast<uint2*>(static_cast<unsigned short*>(a.out) + at);
    if (packed && type == Type::bf16) {
      *words = {pack<Half::bf16>(x[0], x[1]), pack<Half::bf16>(x[2], x[3])};
    } else if (packed && type == Type::f16) {
      *words = {pack<Half::f16>(x[0], x[1]), pack<Half::f16>(x[2], x[3])};
    } else {
#pragma unroll
      for (int c = 0; c < kColumns; ++c) {
        if (column + c < a.dv) store(type, a.out, at + c, x[c]);
      }
    }
  }
}

}  // namespace octavo::cuda
