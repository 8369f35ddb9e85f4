#pragma once

#include <algorithm>
#include <cstdint>

#include "cuda/tiled.h"

// The tile shapes of cuda_portable: used by its selection, its variants and its launches alike.
namespace octavo::cuda {

/// Rounded up to multiples of 32; V in slices of at most 256 columns.
constexpr HeadDims portable_dims(const Problem& p) {
  constexpr int kWidestSlice = 256;
  const auto round_up = [](std::int64_t dim) { return static_cast<int>((dim + 31) / 32 * 32); };
  const int slices = static_cast<int>((p.dv + kWidestSlice - 1) / kWidestSlice);
  return {round_up(p.d), round_up((p.dv + slices - 1) / slices), slices};
}

/// Bytes of shared memory of a thread block: see kernels/portable/shared.h.
constexpr int portable_shared_bytes(const TileShape& tile, const HeadDims& dims, int kv_bytes) {
  constexpr int kPad = 16;
  constexpr int kStages = 2;
  constexpr int kRowBytes = 8;     // which keys a row sees
  constexpr int kTileBytes = 512;  // what is known of the tile
  const int q = tile.rows * (dims.d * 2 + kPad);
  const int kv = tile.keys * ((dims.d + dims.dv) * kv_bytes + 2 * kPad);
  return q + kStages * kv + tile.rows * kRowBytes + kTileBytes;
}

/// The largest tile of so many rows that the device has shared memory for. A warp's sums of O take
/// rows * dv / 32 registers of each of its lanes: 32 rows up to 128 columns, 16 beyond. Those of
/// 128 columns leave room for the logits of 64 keys, but not for masking them.
constexpr TileShape portable_tile(int rows, const HeadDims& dims, int kv_bytes, bool masked,
                                  int shared_limit) {
  const int widest = std::max(dims.d, dims.dv);
  TileShape tile{rows, rows / 16, 64};
  if (rows == 16) tile.keys = 32;
  if (rows == 128 && widest <= 128) tile.warps = 4;
  if (rows == 128 && widest > 64 && widest <= 128 && masked) tile.keys = 32;
  if (rows < 128 && widest > 128) tile.keys = 32;
  if (widest > 256) tile.keys = 16;
  while (tile.keys > 16 && portable_shared_bytes(tile, dims, kv_bytes) > shared_limit) {
    tile.keys /= 2;
  }
  return portable_shared_bytes(tile, dims, kv_bytes) <= shared_limit ? tile : TileShape{};
}

}  // namespace octavo::cuda
