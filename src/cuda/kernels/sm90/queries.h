// A tile of Q into shared memory, as the type that is multiplied: by a warp, in boxes or copies
// that come while the rows' threads do something else; or by these.
#pragma once

#include "ptx/cp_async.h"
#include "ptx/tma.h"
#include "sm90/params.h"
#include "sm90/shared.h"
#include "tiled/queries.h"

namespace octavo::cuda {

/// Whether load_query_tile brings an item's; else store_queries does.
__device__ inline bool are_loaded(const Sm90Params& p, const Item& item) {
  return p.q_whole && p.attention.d % 8 == 0 && !item.rows.logit.negative;
}

/// By a warp: a box for each warpgroup that has rows and each slab.
__device__ inline void load_query_boxes(const Sm90Params& p, const Item& item, Shared& shared) {
  const RowTile& tile = item.rows.tile;
  const int groups = ceil_div(tile.rows, kRowsOfGroup);
  const int lane = lane_of_warp();
  if (lane == 0) {
    arrive_expecting(shared.q_full, groups * kKeySlabs * kGroupSlabBytes);
  } else {
    arrive(shared.q_full);
  }
  __syncwarp();
  if (lane >= groups * kKeySlabs) return;
  const int group = lane / kKeySlabs;
  const int slab = lane % kKeySlabs;
  const int32_t token = divide(tile.first_row + group * kRowsOfGroup, p.group).quotient;
  copy_box(&p.q.map, slab * kSlabColumns, item.rows.kv_head * p.group.value,
           tile.place.q_begin + token, shared_address(shared.q[group][slab]), shared.q_full);
}

/// By a warp: rows by copies of 16 bytes, which eight lanes make of a row; zeros for those that do
/// not exist.
__device__ inline void load_query_rows(const Sm90Params& p, const Item& item, Shared& shared) {
  const RowTile& tile = item.rows.tile;
  const int chunk = lane_of_warp() % 8;
#pragma unroll 4
  for (int row = lane_of_warp() / 8; row < kRows; row += 4) {
    const bool exists = row < tile.rows;
    const int64_t offset = exists ? query_offset(p, tile, item.rows.kv_head, row) : 0;
    unsigned char* const to =
        shared.q[row / kRowsOfGroup][0] + swizzled(row % kRowsOfGroup, chunk * 16);
#pragma unroll
    for (int slab = 0; slab < kKeySlabs; ++slab) {
      const int column = slab * kSlabColumns + chunk * 8;
      const bool wanted = exists && column < p.attention.d;
      copy_async_16(
          shared_address(to + slab * kGroupSlabBytes),
          static_cast<const unsigned short*>(p.attention.q) + (wanted ? offset + column : 0),
          wanted ? 16 : 0);
    }
  }
  commit_copies();
  wait_for_copies<0>();
  fence_async_proxy();
  arrive(shared.q_full);
}

/// By a warp, when nothing reads the item's before any more.
__device__ inline void load_query_tile(const Sm90Params& p, const Item& item, Shared& shared) {
  if (!are_loaded(p, item)) {
    arrive(shared.q_full);
  } else if (p.q.exist) {
    load_query_boxes(p, item, shared);
  } else {
    load_query_rows(p, item, shared);
  }
}

/// By a warpgroup: its rows, of any type and alignment, and with the sign of their factor.
__device__ inline void store_queries(const Sm90Params& p, const Item& item, Shared& shared) {
  constexpr int kChunks = kD / 8;  // of a row
  const RowTile& tile = item.rows.tile;
  const int group = static_cast<int>(threadIdx.x) / kGroupThreads;
  const unsigned flip = item.rows.logit.negative ? 0x80008000u : 0;
#pragma unroll 1
  for (int at = static_cast<int>(threadIdx.x) % kGroupThreads; at < kRowsOfGroup * kChunks;
       at += kGroupThreads) {
    const int row = group * kRowsOfGroup + at / kChunks;
    const int byte = at % kChunks * 16;
    uint4 q{0, 0, 0, 0};
    if (row < tile.rows) {
      q = load_queries(p, query_offset(p, tile, item.rows.kv_head, row), byte / 2);
    }
    unsigned char* const slab = shared.q[group][byte / kRowBytes];
    *reinterpret_cast<uint4*>(slab + swizzled(at / kChunks, byte % kRowBytes)) = {
        q.x ^ flip, q.y ^ flip, q.z ^ flip, q.w ^ flip};
  }
  fence_async_proxy();
  sync_threads(kFirstGroup + group, kGroupThreads);
}

}  // namespace octavo::cuda
