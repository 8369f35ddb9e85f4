// Tiles of K and V in shared memory, in slabs of 64 columns of 16 bits, or 128 of 8. A slab has
// rows of 128 bytes, whose eight 16-byte chunks are permuted as ptx/wgmma.h says. Eight rows of a
// slab are together; what follows them, the slab's next eight or the same of the next slab, is for
// how K and V were loaded to say (TileSteps).
#pragma once

#include "sm90/params.h"
#include "tiled/config.h"

namespace octavo::cuda {

inline constexpr int kStages = OCTAVO_STAGES;  // tiles of K, and of V, in their rings

inline constexpr int kRowBytes = 128;  // of a slab
inline constexpr int kSlabColumns = kRowBytes / kKvBytes;
inline constexpr int kKeySlabs = (kD + kSlabColumns - 1) / kSlabColumns;
inline constexpr int kValueSlabs = (kDv + kSlabColumns - 1) / kSlabColumns;
inline constexpr int kSlabBytes = kKeys * kRowBytes;  // of a tile of K or V
inline constexpr int kEightRows = 8 * kRowBytes;

/// Where a byte of a slab's row stands, among rows that are together.
__device__ inline int swizzled(int row, int byte) {
  return row * kRowBytes + (byte ^ (row % 8) << 4);
}

/// Where a byte of a tile's row stands in a slab.
__device__ inline int place_in_tile(const TileSteps& steps, int row, int slab, int byte) {
  return row / 8 * steps.rows + slab * steps.slab + swizzled(row % 8, byte);
}

/// Place and phase of number `i` of what goes through a ring.
template <int Places = kStages>
struct Turn {
  int stage;
  unsigned parity;

  __device__ explicit Turn(int i)
      : stage(static_cast<int>(static_cast<unsigned>(i) % Places)),
        parity(static_cast<unsigned>(i) / Places % 2) {}
};

}  // namespace octavo::cuda
