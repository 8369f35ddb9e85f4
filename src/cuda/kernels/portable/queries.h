// A tile of Q into shared memory, as the type that is multiplied.
#pragma once

#include "portable/shared.h"
#include "tiled/queries.h"

namespace octavo::cuda {

/// Where pair i of the sixteen elements of a product's step goes. K of fp8 gives a lane four
/// elements in a row where it takes 2t, 2t + 1 and 2t + 8, 2t + 9; with Q in this order they meet.
__device__ inline int place_of_pair(int pair) {
  return kKvBytes == 2 ? pair : (pair & ~7) | (pair & 1) << 2 | (pair & 6) >> 1;
}

__device__ inline void store_chunk(unsigned char* row, int chunk, uint4 q) {
  if constexpr (kKvBytes == 2) {
    *reinterpret_cast<uint4*>(row + chunk * 16) = q;
  } else {
    unsigned* pairs = reinterpret_cast<unsigned*>(row);
    pairs[place_of_pair(chunk * 4)] = q.x;
    pairs[place_of_pair(chunk * 4 + 1)] = q.y;
    pairs[place_of_pair(chunk * 4 + 2)] = q.z;
    pairs[place_of_pair(chunk * 4 + 3)] = q.w;
  }
}

/// All threads take part. `flip` is XORed to each pair: it may turn the signs.
__device__ inline void store_queries(const TiledParams& p, const RowTile& tile, int32_t kv_head,
                                     unsigned flip, Shared& shared) {
  constexpr int kChunks = kD / 8;  // of a row
  constexpr int kAll = kRows * kChunks;
  constexpr int kTogether = 8;  // loads under way
#pragma unroll 1
  for (int first = static_cast<int>(threadIdx.x); first < kAll; first += kTogether * kThreads) {
    uint4 q[kTogether];
#pragma unroll
    for (int i = 0; i < kTogether; ++i) {
      const int at = first + i * kThreads;
      const int row = at / kChunks;
      q[i] = {0, 0, 0, 0};
      if (at < kAll && row < tile.rows) {
        q[i] = load_queries(p, query_offset(p, tile, kv_head, row), at % kChunks * 8);
      }
    }
#pragma unroll
    for (int i = 0; i < kTogether; ++i) {
      const int at = first + i * kThreads;
      if (at >= kAll) continue;
      store_chunk(shared.q + at / kChunks * kQPitch, at % kChunks,
                  {q[i].x ^ flip, q[i].y ^ flip, q[i].z ^ flip, q[i].w ^ flip});
    }
  }
}

}  // namespace octavo::cuda
