// A thread block's shared memory: tiles of Q, K and V in slabs of 64 columns. A slab has rows of
// 128 bytes, whose eight 16-byte chunks are permuted as ptx/wgmma.h says. Eight rows of a slab are
// together; what follows them, the slab's next eight or the same of the next slab, is for how K and
// V were loaded to say (TileSteps).
#pragma once

#include "ptx/mbarrier.h"
#include "sm90/item.h"
#include "sm90/params.h"
#include "tiled/fragments.h"

namespace octavo::cuda {

inline constexpr int kWarpgroups = kWarps / 4;  // that have rows of their own
inline constexpr int kRowsOfGroup = 64;
inline constexpr int kGroupThreads = 128;
inline constexpr int kLoaders = 4;  // warps: of K, of V, one that makes V ready, one that schedules
inline constexpr int kBlockThreads = kThreads + kLoaders * kWarp;
inline constexpr int kStages = OCTAVO_STAGES;
inline constexpr bool kWholeGroups = OCTAVO_WHOLE_GROUPS;  // a warpgroup's rows are whole tokens

inline constexpr int kItems = 2;      // the one under way and the next
inline constexpr int kLateTiles = 6;  // of an item, at whose loads the next is taken

// Barriers of the block, beside that of __syncthreads.
inline constexpr int kRowThreads = 1;  ///< of all threads with rows
inline constexpr int kFirstGroup = 2;  ///< of a warpgroup, each its own
inline constexpr int kFirstTurn = 5;   ///< of a warpgroup and the one before it

inline constexpr int kSlabColumns = 64;
inline constexpr int kRowBytes = 128;  // of a slab
inline constexpr int kKeySlabs = (kD + kSlabColumns - 1) / kSlabColumns;
inline constexpr int kValueSlabs = (kDv + kSlabColumns - 1) / kSlabColumns;
inline constexpr int kSlabBytes = kKeys * kRowBytes;  // of a tile of K or V
inline constexpr int kEightRows = 8 * kRowBytes;
inline constexpr int kGroupSlabBytes = kRowsOfGroup * kRowBytes;

static_assert(kRows == kWarpgroups * kRowsOfGroup);

struct Shared {
  alignas(1024) unsigned char q[kWarpgroups][kKeySlabs][kGroupSlabBytes];
  alignas(1024) unsigned char k[kStages][kKeySlabs * kSlabBytes];
  alignas(1024) unsigned char v[kStages][kValueSlabs * kSlabBytes];
  Item items[kItems];
  Barrier item_full[kItems];
  Barrier item_empty[kItems];
  Barrier item_late;
  Barrier q_full;   ///< where Q comes by boxes: of items, in their order
  Barrier q_empty;  ///< the same, when its last scores are there
  Barrier k_full[kStages];
  Barrier k_empty[kStages];
  Barrier v_full[kStages];
  Barrier v_empty[kStages];
  Barrier v_ready[kStages];  ///< after v_full: what is not to be read is 0
  bool v_special[kStages];   ///< of items done with care: there are infinite or NaN values
};

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

/// By every warp but the one that schedules: item `n` of the thread block.
__device__ inline const Item& take_item(Shared& shared, int n) {
  const Turn<kItems> turn(n);
  wait(shared.item_full[turn.stage], turn.parity);
  return shared.items[turn.stage];
}
/// After the warp's last look at it.
__device__ inline void release_item(Shared& shared, int n) {
  __syncwarp();
  if (lane_of_warp() == 0) arrive(shared.item_empty[Turn<kItems>(n).stage]);
}

}  // namespace octavo::cuda
