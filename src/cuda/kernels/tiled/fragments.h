// What a warp holds of its rows' products, as tensor cores leave it in registers: of each block of
// 16 rows, lane l has rows l / 4 and l / 4 + 8, and of each 8 columns the two at 2 (l % 4).
#pragma once

#include "tiled/config.h"

namespace octavo::cuda {

// Blocks of 16 rows x tiles of 8 columns, of a warp.
using Scores = float[kBlocks][kKeyTiles][4];
using Sums = float[kBlocks][kValueTiles][4];
using Weights = unsigned[kBlocks][kWarpKeys / 16][4];

__device__ inline void clear(Sums& sums) {
#pragma unroll
  for (int b = 0; b < kBlocks; ++b) {
#pragma unroll
    for (int n = 0; n < kValueTiles; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) sums[b][n][i] = 0;
    }
  }
}

__device__ inline int lane_of_warp() { return static_cast<int>(threadIdx.x) % 32; }
__device__ inline int warp_of_block() { return static_cast<int>(threadIdx.x) / 32; }

/// A row of this warp's, among those of its tile. Warps beyond kWarps have the same rows of it, or
/// those of another tile.
__device__ inline int row_of_warp(int row) { return warp_of_block() % kWarps * kRowsOfWarp + row; }
/// The row of the tile that element pair `half` of a fragment belongs to.
__device__ inline int row_of(int block, int half) {
  return row_of_warp(block * 16 + half * 8 + lane_of_warp() / 4);
}

/// The column of V of element `i`, 0 or 1, of this lane's pair in a tile of O.
__device__ inline int column_of(int tile, int i) {
  const int pair = lane_of_warp() % 4;
  if constexpr (kKvBytes == 2) return tile * 8 + 2 * pair + i;
  return tile / 2 * 16 + 4 * pair + 2 * i + tile % 2;
}

}  // namespace octavo::cuda
