// A thread block's shared memory: tiles of Q, K and V in slabs of 64 columns. A slab has rows of
// 128 bytes, whose eight 16-byte chunks are permuted as ptx/wgmma.h says.
#pragma once

#include "ptx/mbarrier.h"
#include "sm90/block.h"

namespace octavo::cuda {

inline constexpr int kWarpgroups = kWarps / 4;  // that have rows of their own
inline constexpr int kRowsOfGroup = 64;
inline constexpr int kGroupThreads = 128;
inline constexpr int kLoaders = 4;  // warps: of K, of V, and two that inspect V
inline constexpr int kBlockThreads = kThreads + kLoaders * kWarp;
inline constexpr int kStages = OCTAVO_STAGES;

// Barriers of the block, beside that of __syncthreads.
inline constexpr int kRowThreads = 1;  ///< of all threads with rows
inline constexpr int kFirstGroup = 2;  ///< of a warpgroup, each its own
inline constexpr int kFirstTurn = 5;   ///< of a warpgroup and the one before it

inline constexpr int kSlabColumns = 64;
inline constexpr int kRowBytes = 128;  // of a slab
inline constexpr int kKeySlabs = (kD + kSlabColumns - 1) / kSlabColumns;
inline constexpr int kValueSlabs = (kDv + kSlabColumns - 1) / kSlabColumns;
inline constexpr int kQuerySlabs = kKeySlabs > kValueSlabs ? kKeySlabs : kValueSlabs;
inline constexpr int kSlabBytes = kKeys * kRowBytes;  // of a tile of K or V
inline constexpr int kGroupSlabBytes = kRowsOfGroup * kRowBytes;

static_assert(kRows == kWarpgroups * kRowsOfGroup);

struct Shared {
  alignas(1024) unsigned char q[kWarpgroups][kQuerySlabs][kGroupSlabBytes];  ///< then results
  alignas(1024) unsigned char k[kStages][kKeySlabs][kSlabBytes];
  alignas(1024) unsigned char v[kStages][kValueSlabs][kSlabBytes];
  Rows rows;
  Block block;
  Barrier k_full[kStages];
  Barrier k_empty[kStages];
  Barrier v_full[kStages];
  Barrier v_empty[kStages];
  Barrier v_clean[kStages];    ///< of inspected tiles alone, which take them in turn
  bool v_special[kStages][2];  ///< beside v_clean: an inspecting warp saw infinite or NaN values
};

/// Where a byte of a slab's row stands.
__device__ inline int swizzled(int row, int byte) {
  return row * kRowBytes + (byte ^ (row % 8) << 4);
}

/// Place and phase of number `i` of what goes through a ring of kStages.
struct Turn {
  int stage;
  unsigned parity;

  __device__ explicit Turn(int i)
      : stage(i % kStages), parity(static_cast<unsigned>(i / kStages) % 2) {}
};

}  // namespace octavo::cuda
