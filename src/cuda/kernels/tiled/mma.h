// The two products of a tile by a warp with mma.sync: S = Q . K^T and O += P . V. How K and V lie
// in shared memory is for their types to say: address(row, byte) is where a lane's row begins in
// the matrices that begin at this row and byte of the tile; both are constants, multiples of 16.
#pragma once

#include "ptx/ldmatrix.h"
#include "ptx/mma.h"
#include "tiled/finite.h"
#include "tiled/fragments.h"
#include "tiled/mma_queries.h"

namespace octavo::cuda {

/// Adds the products of 16 columns of Q with 16 keys, whose elements for them are in k.
__device__ inline void multiply_step(Scores& scores, const unsigned (&q)[kBlocks][4], int keys,
                                     unsigned k0, unsigned k1, unsigned k2, unsigned k3) {
#pragma unroll
  for (int b = 0; b < kBlocks; ++b) {
    multiply_add<kHalf>(scores[b][keys / 8], q[b], k0, k1);
    multiply_add<kHalf>(scores[b][keys / 8 + 1], q[b], k2, k3);
  }
}

/// The lane's row, among 16 keys, and its byte, among 32, in a load of K.
__device__ inline int key_row() { return lane_of_warp() / 16 * 8 + lane_of_warp() % 8; }
__device__ inline int key_byte() { return lane_of_warp() / 8 % 2 * 16; }
/// In a load of V.
__device__ inline int value_row() { return lane_of_warp() / 8 % 2 * 8 + lane_of_warp() % 8; }
__device__ inline int value_byte() { return lane_of_warp() / 16 * 16; }

/// S = Q . K^T for a tile of keys.
template <typename Keys>
__device__ inline void multiply_keys(Scores& scores, const Queries& queries, unsigned q,
                                     const Keys& keys) {
#pragma unroll
  for (int b = 0; b < kBlocks; ++b) {
#pragma unroll
    for (int n = 0; n < kKeyTiles; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) scores[b][n][i] = 0;
    }
  }
  constexpr int kStep = 32 / kKvBytes;  // columns of K in a load
#pragma unroll
  for (int c = 0; c < kD; c += kStep) {
    unsigned at[2][kBlocks][4];
    query_step(queries, q, c / 16, at[0]);
    if constexpr (kKvBytes == 1) query_step(queries, q, c / 16 + 1, at[1]);
#pragma unroll
    for (int n = 0; n < kWarpKeys; n += 16) {
      unsigned r[4];
      load_matrices(r, keys.address(n, c * kKvBytes));
      if constexpr (kKvBytes == 2) {
        multiply_step(scores, at[0], n, r[0], r[1], r[2], r[3]);
      } else {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          multiply_step(scores, at[half], n, widen_bytes<kHalf, kFp8, 0, 1>(r[half]),
                        widen_bytes<kHalf, kFp8, 2, 3>(r[half]),
                        widen_bytes<kHalf, kFp8, 0, 1>(r[half + 2]),
                        widen_bytes<kHalf, kFp8, 2, 3>(r[half + 2]));
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
      steps[i] = {
          {widen_bytes<kHalf, kFp8, 0, 2>(r[2 * i]), widen_bytes<kHalf, kFp8, 0, 2>(r[2 * i + 1])},
          {widen_bytes<kHalf, kFp8, 1, 3>(r[2 * i]), widen_bytes<kHalf, kFp8, 1, 3>(r[2 * i + 1])}};
    }
  }
}

/// O += P . V for kValueColumns columns from `column` on. `Finite`: as if infinite and NaN values
/// were 0.
template <bool Finite, typename Values>
__device__ inline void multiply_columns(Sums& sums, const Weights& weights, const Values& values,
                                        int column) {
#pragma unroll
  for (int k = 0; k < kWarpKeys; k += 16) {
    ValueStep steps[kValueColumns / 16];
    load_values<Finite>(steps, values.address(k, column * kKvBytes));
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

template <bool Finite, typename Values>
__device__ inline void multiply_values(Sums& sums, const Weights& weights, const Values& values) {
#pragma unroll
  for (int c = 0; c < kDv; c += kValueColumns) {
    multiply_columns<Finite>(sums, weights, values, c);
  }
}

}  // namespace octavo::cuda
