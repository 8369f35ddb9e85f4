// A tile of Q in shared memory for mma.sync: rows of the type that is multiplied, padded by 16
// bytes so that eight at the same column lie in different banks.
#pragma once

#include "ptx/ldmatrix.h"
#include "tiled/fragments.h"
#include "tiled/queries.h"

namespace octavo::cuda {

inline constexpr int kQPitch = kD * 2 + 16;  // bytes

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

/// By `threads` threads, of which this is number `thread`. `flip` is XORed to each pair: it may
/// turn the signs.
__device__ inline void store_queries(const TiledParams& p, const RowTile& tile, int32_t kv_head,
                                     unsigned flip, int thread, int threads, unsigned char* to) {
  constexpr int kChunks = kD / 8;  // of a row
  constexpr int kAll = kRows * kChunks;
  constexpr int kTogether = 8;  // loads under way
#pragma unroll 1
  for (int first = thread; first < kAll; first += kTogether * threads) {
    uint4 q[kTogether];
#pragma unroll
    for (int i = 0; i < kTogether; ++i) {
      const int at = first + i * threads;
      const int row = at / kChunks;
      q[i] = {0, 0, 0, 0};
      if (at < kAll && row < tile.rows) {
        q[i] = load_queries(p, query_offset(p, tile, kv_head, row), at % kChunks * 8);
      }
    }
#pragma unroll
    for (int i = 0; i < kTogether; ++i) {
      const int at = first + i * threads;
      if (at >= kAll) continue;
      store_chunk(to + at / kChunks * kQPitch, at % kChunks,
                  {q[i].x ^ flip, q[i].y ^ flip, q[i].z ^ flip, q[i].w ^ flip});
    }
  }
}

// Q stays in registers where that takes few of them, or there are many.
inline constexpr bool kQueriesInRegisters = kBlocks * kD / 16 <= 8 || kKeyWarps > 1;
using Queries = unsigned[kBlocks][kQueriesInRegisters ? kD / 16 : 1][4];

/// Where this lane's row of a warp's matrices stands.
__device__ inline unsigned query_address(const unsigned char* q) {
  return shared_address(q) + row_of_warp(lane_of_warp() % 16) * kQPitch + lane_of_warp() / 16 * 16;
}

/// `address`: query_address.
__device__ inline void load_queries(unsigned address, Queries& q) {
  if constexpr (kQueriesInRegisters) {
#pragma unroll
    for (int b = 0; b < kBlocks; ++b) {
#pragma unroll
      for (int step = 0; step < kD / 16; ++step) {
        load_matrices(q[b][step], address + b * 16 * kQPitch + step * 32);
      }
    }
  }
}

__device__ inline void query_step(const Queries& q, unsigned address, int step,
                                  unsigned (&at)[kBlocks][4]) {
#pragma unroll
  for (int b = 0; b < kBlocks; ++b) {
    if constexpr (kQueriesInRegisters) {
#pragma unroll
      for (int i = 0; i < 4; ++i) at[b][i] = q[b][step][i];
    } else {
      load_matrices(at[b], address + b * 16 * kQPitch + step * 32);
    }
  }
}

}  // namespace octavo::cuda
