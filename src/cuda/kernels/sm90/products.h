// The two products of a tile by wgmma: S = Q . K^T and O += P . V.
#pragma once

#include "ptx/wgmma.h"
#include "sm90/params.h"
#include "sm90/warpgroups.h"
#include "tiled/fragments.h"

namespace octavo::cuda {

/// The largest number of columns that one instruction takes of so many.
__device__ constexpr int piece_of(int columns) {
  for (const int piece : {128, 96, 80, 64}) {
    if (columns == piece || columns - piece >= 64) return piece;
  }
  return 0;
}

/// Of the warpgroup's rows with 16 columns of a tile of keys, in pieces.
template <int First = 0>
__device__ inline void multiply_keys_step(Scores& scores, TileHandle q, TileHandle keys,
                                          int row_step, int adds) {
  constexpr int kPiece = piece_of(kKeys - First);
  multiply_shared<kHalf, kPiece>(&scores[0][First / 8], q, advance(keys, First / 8 * row_step),
                                 adds);
  if constexpr (First + kPiece < kKeys) {
    multiply_keys_step<First + kPiece>(scores, q, keys, row_step, adds);
  }
}

__device__ inline void multiply_keys(Scores& scores, unsigned queries, unsigned tile,
                                     const TileSteps& steps) {
  const TileHandle q = tile_handle(queries, kGroupSlabBytes, kEightRows);
  const TileHandle keys = tile_handle(tile, steps.slab, steps.rows);
#pragma unroll
  for (int c = 0; c < kD; c += 16) {
    const int within = c % kSlabColumns * 2;
    multiply_keys_step(scores, advance(q, c / kSlabColumns * kGroupSlabBytes + within),
                       advance(keys, c / kSlabColumns * steps.slab + within), steps.rows,
                       c == 0 ? 0 : 1);
  }
}

/// Of 16 keys with columns from `First` on.
template <int First = 0>
__device__ inline void multiply_values_step(Sums& sums, const unsigned (&weights)[4],
                                            TileHandle values, int slab_step) {
  constexpr int kPiece = piece_of(kDv - First);
  static_assert((First + kPiece) % kSlabColumns == 0 || First + kPiece == kDv);
  multiply_registers<kHalf, kPiece>(&sums[0][First / 8], weights,
                                    advance(values, First / kSlabColumns * slab_step));
  if constexpr (First + kPiece < kDv) {
    multiply_values_step<First + kPiece>(sums, weights, values, slab_step);
  }
}

__device__ inline void multiply_values(Sums& sums, const Weights& weights, unsigned tile,
                                       const TileSteps& steps) {
  const TileHandle values = tile_handle(tile, steps.slab, steps.rows);
#pragma unroll
  for (int k = 0; k < kKeys; k += 16) {
    multiply_values_step(sums, weights[0][k / 16], advance(values, k / 8 * steps.rows), steps.slab);
  }
}

/// What a group of products summed may be used now that it was waited for.
template <int Columns>
__device__ inline void pin_all(float (&sums)[1][Columns][4]) {
#pragma unroll
  for (int n = 0; n < Columns; ++n) {
#pragma unroll
    for (int i = 0; i < 4; ++i) pin(sums[0][n][i]);
  }
}

/// Of a warp's.
__device__ inline bool are_finite(const Sums& sums) {
  float zeros[4] = {0, 0, 0, 0};
#pragma unroll
  for (int n = 0; n < kValueTiles; ++n) {
#pragma unroll
    for (int i = 0; i < 4; ++i) zeros[i] = fmaf(sums[0][n][i], 0.0f, zeros[i]);
  }
  return __all_sync(kAllLanes, zeros[0] + zeros[1] + zeros[2] + zeros[3] == 0);
}

}  // namespace octavo::cuda
