// A tile of Q into shared memory, as the type that is multiplied.
#pragma once

#include "sm90/shared.h"
#include "tiled/queries.h"

namespace octavo::cuda {

/// Of the calling warpgroup's rows. `flip` is XORed to each pair: it may turn the signs.
__device__ inline void store_queries(const TiledParams& p, const RowTile& tile, int32_t kv_head,
                                     unsigned flip, Shared& shared) {
  constexpr int kChunks = kD / 8;  // of a row
  constexpr int kAll = kRowsOfGroup * kChunks;
  constexpr int kTogether = 4;  // loads under way
  const int group = static_cast<int>(threadIdx.x) / kGroupThreads;
#pragma unroll 1
  for (int begin = static_cast<int>(threadIdx.x) % kGroupThreads; begin < kAll;
       begin += kTogether * kGroupThreads) {
    uint4 q[kTogether];
#pragma unroll
    for (int i = 0; i < kTogether; ++i) {
      const int at = begin + i * kGroupThreads;
      const int row = group * kRowsOfGroup + at / kChunks;
      q[i] = {0, 0, 0, 0};
      if (at < kAll && row < tile.rows) {
        q[i] = load_queries(p, query_offset(p, tile, kv_head, row), at % kChunks * 8);
      }
    }
#pragma unroll
    for (int i = 0; i < kTogether; ++i) {
      const int at = begin + i * kGroupThreads;
      if (at >= kAll) continue;
      const int byte = at % kChunks * 16;
      *reinterpret_cast<uint4*>(shared.q[group][byte / kRowBytes] +
                                swizzled(at / kChunks, byte % kRowBytes)) = {
          q[i].x ^ flip, q[i].y ^ flip, q[i].z ^ flip, q[i].w ^ flip};
    }
  }
}

}  // namespace octavo::cuda
