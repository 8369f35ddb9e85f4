// The two products of a tile, on fragments of mma.sync: S = Q . K^T and O += P . V.
#pragma once

#include "portable/shared.h"
#include "ptx/ldmatrix.h"
#include "ptx/mma.h"
#include "tiled/finite.h"
#include "tiled/fragments.h"

namespace octavo::cuda {

// Q stays in registers where that takes few of them.
inline constexpr bool kQueriesInRegisters = kBlocks * kD / 16 <= 8;
using Queries = unsigned[kBlocks][kQueriesInRegisters ? kD / 16 : 1][4];

/// Where this lane's row of Q's matrices stands, in shared memory.
__device__ inline unsigned query_address(const Shared& shared) {
  const int row = warp_of_block() * kRowsOfWarp + lane_of_warp() % 16;
  return shared_address(shared.q) + row * kQPitch + lane_of_warp() / 16 * 16;
}

__device__ inline void load_queries(const Shared& shared, Queries& q) {
  if constexpr (kQueriesInRegisters) {
#pragma unroll
    for (int b = 0; b < kBlocks; ++b) {
#pragma unroll
      for (int step = 0; step < kD / 16; ++step) {
        load_matrices(q[b][step], query_address(shared) + b * 16 * kQPitch + step * 32);
      }
    }
  }
}

/// Adds the products of 16 columns of Q with 16 keys, whose elements for them are in k.
__device__ inline void multiply_step(Scores& scores, const unsigned (&q)[kBlocks][4], int keys,
                                     unsigned k0, unsigned k1, unsigned k2, unsigned k3) {
#pragma unroll
  for (int b = 0; b < kBlocks; ++b) {
    multiply_add<kHalf>(scores[b][keys / 8], q[b], k0, k1);
    multiply_add<kHalf>(scores[b][keys / 8 + 1], q[b], k2, k3);
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

/// S = Q . K^T for a tile of keys.
__device__ inline void multiply_keys(Scores& scores, const Queries& queries, unsigned q,
                                     const unsigned char* keys) {
#pragma unroll
  for (int b = 0; b < kBlocks; ++b) {
#pragma unroll
    for (int n = 0; n < kKeyTiles; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) scores[b][n][i] = 0;
    }
  }
  const int lane = lane_of_warp();
  const unsigned k =
      shared_address(keys) + (lane / 16 * 8 + lane % 8) * kKPitch + lane / 8 % 2 * 16;
  constexpr int kStep = 32 / kKvBytes;  // columns of K in a load
#pragma unroll
  for (int c = 0; c < kD; c += kStep) {
    unsigned at[2][kBlocks][4];
    query_step(queries, q, c / 16, at[0]);
    if constexpr (kKvBytes == 1) query_step(queries, q, c / 16 + 1, at[1]);
#pragma unroll
    for (int n = 0; n < kKeys; n += 16) {
      unsigned r[4];
      load_matrices(r, k + n * kKPitch + c * kKvBytes);
      if constexpr (kKvBytes == 2) {
        multiply_step(scores, at[0], n, r[0], r[1], r[2], r[3]);
      } else {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          multiply_step(scores, at[half], n, widen<kHalf, kFp8>(upper_bytes<0, 1>(r[half])),
                        widen<kHalf, kFp8>(upper_bytes<2, 3>(r[half])),
                        widen<kHalf, kFp8>(upper_bytes<0, 1>(r[half + 2])),
                        widen<kHalf, kFp8>(upper_bytes<2, 3>(r[half + 2])));
        }
      }
    }
  }
}

/// Fragments of 16 tokens and 16 columns of V, for two tiles of columns. Where V is fp8, the first
/// tile has the even columns and the second the odd ones: see `column_of`.
struct ValueStep {
  unsigned first[2];
  unsigned second[2];
};

/// Where this lane's row of V's matrices stands.
__device__ inline unsigned value_address(const unsigned char* values) {
  const int lane = lane_of_warp();
  return shared_address(values) + (lane / 8 % 2 * 8 + lane % 8) * kVPitch + lane / 16 * 16;
}

/// The columns of V in a load.
inline constexpr int kValueColumns = kKvBytes == 2 ? 16 : 32;

template <bool Finite>
__device__ inline void load_values(ValueStep (&steps)[kValueColumns / 16], unsigned address) {
  unsigned r[4];
  load_transposed(r, address);
  if constexpr (Finite) {
#pragma unroll
    for (int i = 0; i < 4; ++i) r[i] = without_specials(r[i]);
  }
  if constexpr (kKvBytes == 2) {
    steps[0] = {{r[0], r[1]}, {r[2], r[3]}};
  } else {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      steps[i] = {{widen<kHalf, kFp8>(upper_bytes<0, 2>(r[2 * i])),
                   widen<kHalf, kFp8>(upper_bytes<0, 2>(r[2 * i + 1]))},
                  {widen<kHalf, kFp8>(upper_bytes<1, 3>(r[2 * i])),
                   widen<kHalf, kFp8>(upper_bytes<1, 3>(r[2 * i + 1]))}};
    }
  }
}

/// O += P . V for kValueColumns columns from `column` on. `Finite`: as if infinite and NaN values
/// were 0.
template <bool Finite>
__device__ inline void multiply_columns(Sums& sums, const Weights& weights,
                                        const unsigned char* values, int column) {
  const unsigned v = value_address(values);
#pragma unroll
  for (int k = 0; k < kKeys; k += 16) {
    ValueStep steps[kValueColumns / 16];
    load_values<Finite>(steps, v + k * kVPitch + column * kKvBytes);
#pragma unroll
    for (int i = 0; i < kValueColumns / 16; ++i) {
#pragma unroll
      for (int b = 0; b < kBlocks; ++b) {
        const int tile = column / 8 + 2 * i;
        multiply_add<kHalf>(sums[b][tile], weights[b][k / 16], steps[i].first[0],
                            steps[i].first[1]);
        multiply_add<kHalf>(sums[b][tile + 1], weights[b][k / 16], steps[i].second[0],
                            steps[i].second[1]);
      }
    }
  }
}

template <bool Finite>
__device__ inline void multiply_values(Sums& sums, const Weights& weights,
                                       const unsigned char* values) {
#pragma unroll
  for (int c = 0; c < kDv; c += kValueColumns) {
    multiply_columns<Finite>(sums, weights, values, c);
  }
}

/// Whether one of this thread's share of a tile of V is infinite or NaN.
__device__ inline bool has_special(const unsigned char* v) {
  constexpr int kChunks = kDv * kKvBytes / 16;
  unsigned carries = 0;
  for (int i = static_cast<int>(threadIdx.x); i < kKeys * kChunks; i += kThreads) {
    const uint4 words =
        *reinterpret_cast<const uint4*>(v + i / kChunks * kVPitch + i % kChunks * 16);
    carries |= carries_of(words);
  }
  return (carries & kSigns) != 0;
}

}  // namespace octavo::cuda
