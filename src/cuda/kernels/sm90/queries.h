// A tile of Q into shared memory, as the type that is multiplied: by boxes, which a loading warp
// asks for; or by the threads that have the rows, in copies that come while they do something else,
// or element by element.
#pragma once

#include "ptx/cp_async.h"
#include "sm90/warpgroups.h"
#include "tiled/queries.h"

namespace octavo::cuda {

/// Whether a tile can be taken as it is.
__device__ inline bool are_whole(const Sm90Params& p, const Rows& rows) {
  return p.q_whole && p.attention.d % 8 == 0 && !rows.logit.negative;
}

/// Calls take(row, column, to) for each eight columns of the rows of the calling thread's
/// warpgroup, of which this thread has every kGroupThreads-th: `to` is where they stand.
template <typename Take>
__device__ inline void for_queries(QueryTile& q, const Take& take) {
  constexpr int kChunks = kD / 8;  // of a row
  const int group = static_cast<int>(threadIdx.x) / kGroupThreads % kWarpgroups;
#pragma unroll 1
  for (int at = static_cast<int>(threadIdx.x) % kGroupThreads; at < kRowsOfGroup * kChunks;
       at += kGroupThreads) {
    const int byte = at % kChunks * 16;
    take(group * kRowsOfGroup + at / kChunks, at % kChunks * 8,
         q[group][byte / kRowBytes] + swizzled(at / kChunks, byte % kRowBytes));
  }
}

/// Those of a tile that is whole come until wait_for_copies. False: it is not.
__device__ inline bool start_queries(const Sm90Params& p, const Rows& rows, QueryTile& q) {
  if (!are_whole(p, rows)) return false;
  constexpr int kChunks = kD / 8;  // of a row
  const int lane = lane_of_warp();
  const int first = row_of_warp(0);
  const int own = first + lane % kRowsOfWarp;  // whose place others ask of this lane
  const int count = rows.tile.rows;
  const int64_t offset = own < count ? query_offset(p, rows.tile, rows.kv_head, own) : 0;
  const int d = p.attention.d;
  static_assert(kRowsOfWarp * kChunks % kWarp == 0);
#pragma unroll
  for (int i = 0; i < kRowsOfWarp * kChunks; i += kWarp) {
    const int at = i + lane;
    const int row = at / kChunks;
    const int column = at % kChunks * 8;
    const int64_t from = __shfl_sync(kAllLanes, offset, row);
    const bool exists = first + row < count && column < d;
    const int in_group = (first + row) % kRowsOfGroup;
    unsigned char* to = q[first / kRowsOfGroup][column * 2 / kRowBytes] +
                        swizzled(in_group, column * 2 % kRowBytes);
    copy_async_16(shared_address(to),
                  static_cast<const unsigned short*>(p.attention.q) + (exists ? from + column : 0),
                  exists ? 16 : 0);
  }
  commit_copies();
  return true;
}

/// Any, and with the sign of their factor.
__device__ __noinline__ void store_queries(const Sm90Params& p, const Rows& rows, QueryTile& q) {
  const RowTile& tile = rows.tile;
  const unsigned flip = rows.logit.negative ? 0x80008000u : 0;
  for_queries(q, [&](int row, int column, unsigned char* to) {
    uint4 x{0, 0, 0, 0};
    if (row < tile.rows) {
      x = load_queries(p, query_offset(p, tile, rows.kv_head, row), column);
    }
    *reinterpret_cast<uint4*>(to) = {x.x ^ flip, x.y ^ flip, x.z ^ flip, x.w ^ flip};
  });
}

}  // namespace octavo::cuda
