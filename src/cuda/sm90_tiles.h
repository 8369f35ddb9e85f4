#pragma once

#include <algorithm>
#include <cstdint>

#include "cuda/tiled.h"

// The tile shapes of cuda_sm90: used by its selection, its variants and its launches alike.
namespace octavo::cuda {

/// What a thread block computes at a time, and how far ahead it loads.
struct Sm90Tile {
  TileShape shape;
  int stages = 0;  ///< tiles of K and of V in shared memory
  int threads() const { return shape.warps * 32 + 128; }
  int blocks() const { return shape.warps == 4 ? 2 : 1; }  ///< of a multiprocessor
};

inline constexpr std::int64_t kSm90Widest = 256;

/// Rounded up to widths that there are instructions for.
constexpr HeadDims sm90_dims(const Problem& p) {
  const auto round_up = [](std::int64_t dim) {
    for (const int width : {64, 96, 128, 192}) {
      if (dim <= width) return width;
    }
    return static_cast<int>(kSm90Widest);
  };
  return {round_up(p.d), round_up(p.dv)};
}

/// Bytes of shared memory of a thread block: see kernels/sm90/shared.h.
constexpr int sm90_shared_bytes(const Sm90Tile& tile, const HeadDims& dims) {
  constexpr int kRowBytes = 2 * 8;  // which keys a row of either item sees
  constexpr int kTileBytes = 1024;  // what is known of two items, and barriers
  const auto slabs = [](int columns) { return (columns + 63) / 64; };
  const int q = tile.shape.rows * slabs(dims.d) * 128;
  const int kv = tile.shape.keys * (slabs(dims.d) + slabs(dims.dv)) * 128;
  return q + tile.stages * kv + tile.shape.rows * kRowBytes + kTileBytes;
}

inline constexpr int kSm90Rows = 192;  ///< of a tile, at most
inline constexpr int kRowsOfWarpgroup = 64;

/// Whether a warpgroup's rows are whole query tokens, which boxes of Q can bring.
constexpr bool has_whole_groups(std::int64_t group) { return kRowsOfWarpgroup % group == 0; }

/// Of 64 rows, or of as many as registers have room for: a warp's O and S take (dv + keys) / 2
/// registers of each of its lanes, of 160 with three warpgroups and of 232 with two.
constexpr Sm90Tile sm90_tile(int rows, const HeadDims& dims, int shared_limit) {
  const int widest = std::max(dims.d, dims.dv);
  Sm90Tile tile{{kSm90Rows, 12, 80}, 4};
  if (widest == 64) tile.shape.keys = 128;
  if (widest > 128) tile.shape = {128, 8, 80};
  if (rows <= 64) tile = {{64, 4, 64}, 2};
  while (tile.stages > 2 && sm90_shared_bytes(tile, dims) > shared_limit) --tile.stages;
  return tile;
}

}  // namespace octavo::cuda
