// A tile of Q into shared memory, as the type that is multiplied.
#pragma once

#include "ptx/cp_async.h"
#include "sm90/shared.h"
#include "tiled/queries.h"

namespace octavo::cuda {

/// Calls take(row, column, to) for each eight columns of the rows of the calling thread's
/// warpgroup, of which this thread has every kGroupThreads-th: `to` is where they stand.
template <typename Take>
__device__ inline void for_queries(Shared& shared, const Take& take) {
  constexpr int kChunks = kD / 8;  // of a row
  const int group = static_cast<int>(threadIdx.x) / kGroupThreads;
#pragma unroll 1
  for (int at = static_cast<int>(threadIdx.x) % kGroupThreads; at < kRowsOfGroup * kChunks;
       at += kGroupThreads) {
    const int byte = at % kChunks * 16;
    take(group * kRowsOfGroup + at / kChunks, at % kChunks * 8,
         shared.q[group][byte / kRowBytes] + swizzled(at / kChunks, byte % kRowBytes));
  }
}

/// Whether start_queries can take an item's.
__device__ inline bool can_start_queries(const TiledParams& p, const Item& item) {
  return p.q_whole && p.attention.d % 8 == 0 && !item.rows.logit.negative;
}

/// Lets them come while the warpgroup does something else, until wait_for_copies.
__device__ inline void start_queries(const TiledParams& p, const Item& item, Shared& shared) {
  const RowTile& tile = item.rows.tile;
  for_queries(shared, [&](int row, int column, unsigned char* to) {
    const bool exists = row < tile.rows && column < p.attention.d;
    const int64_t at = exists ? query_offset(p, tile, item.rows.kv_head, row) + column : 0;
    copy_async_16(shared_address(to), static_cast<const unsigned short*>(p.attention.q) + at,
                  exists ? 16 : 0);
  });
}

/// Any, and with the sign of their factor.
__device__ inline void store_queries(const TiledParams& p, const Item& item, Shared& shared) {
  const RowTile& tile = item.rows.tile;
  const unsigned flip = item.rows.logit.negative ? 0x80008000u : 0;
  for_queries(shared, [&](int row, int column, unsigned char* to) {
    uint4 q{0, 0, 0, 0};
    if (row < tile.rows) {
      q = load_queries(p, query_offset(p, tile, item.rows.kv_head, row), column);
    }
    *reinterpret_cast<uint4*>(to) = {q.x ^ flip, q.y ^ flip, q.z ^ flip, q.w ^ flip};
  });
}

}  // namespace octavo::cuda
