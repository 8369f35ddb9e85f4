#pragma once

#include <algorithm>
#include <cstdint>

#include "octavo/problem.h"
#include "octavo/selection.h"

// The tile shapes of cuda_portable: used by its selection, its variants and its launches alike.
namespace octavo::cuda {

/// What a thread block computes at a time.
struct PortableTile {
  int rows = 0;  ///< query tokens times the group; 0: no such tile fits the device
  int warps = 0;
  int keys = 0;  ///< of K and V in shared memory at a time, twice

  int threads() const { return warps * 32; }
};

/// Widths that a variant is compiled for: multiples of 32.
struct PortableDims {
  int d;       ///< of Q and K
  int dv;      ///< of a slice of V
  int slices;  ///< of V, each for a thread block

  static constexpr int kWidestSlice = 256;

  static constexpr PortableDims of(const Problem& p) {
    const auto round_up = [](std::int64_t dim) { return static_cast<int>((dim + 31) / 32 * 32); };
    const int slices = static_cast<int>((p.dv + kWidestSlice - 1) / kWidestSlice);
    return {round_up(p.d), round_up((p.dv + slices - 1) / slices), slices};
  }
};

/// Rows of a request (query tokens times the group) that a launch takes, and its tile.
struct PortableClass {
  int fewest_rows;
  int most_rows;
  PortableTile tile;
};

inline constexpr int kAnyRows = 0x7fffffff;

/// Bytes of shared memory of a thread block: see kernels/portable/shared.h.
constexpr int portable_shared_bytes(const PortableTile& tile, const PortableDims& dims,
                                    int kv_bytes) {
  constexpr int kPad = 16;
  constexpr int kStages = 2;
  constexpr int kRowBytes = 16;    // which keys a row sees, its position and slope
  constexpr int kTileBytes = 512;  // what is known of the tile
  const int q = tile.rows * (std::max(dims.d, dims.dv) * 2 + kPad);
  const int kv = tile.keys * ((dims.d + dims.dv) * kv_bytes + 2 * kPad);
  return q + kStages * kv + tile.rows * kRowBytes + kTileBytes;
}

/// The largest tile of so many rows that the device has shared memory for. A warp's sums of O take
/// rows * dv / 32 registers of each of its lanes: 32 rows up to 128 columns, 16 beyond. Those of
/// 128 columns leave room for the logits of 64 keys, but not for masking them.
constexpr PortableTile portable_tile(int rows, const PortableDims& dims, int kv_bytes, bool masked,
                                     int shared_limit) {
  const int widest = std::max(dims.d, dims.dv);
  PortableTile tile{rows, rows / 16, 64};
  if (rows == 16) tile.keys = 32;
  if (rows == 128 && widest <= 128) tile.warps = 4;
  if (rows == 128 && widest > 64 && widest <= 128 && masked) tile.keys = 32;
  if (rows < 128 && widest > 128) tile.keys = 32;
  if (widest > 256) tile.keys = 16;
  while (tile.keys > 16 && portable_shared_bytes(tile, dims, kv_bytes) > shared_limit) {
    tile.keys /= 2;
  }
  return portable_shared_bytes(tile, dims, kv_bytes) <= shared_limit ? tile : PortableTile{};
}

}  // namespace octavo::cuda
