// A thread block's shared memory.
#pragma once

#include "sm90/items.h"
#include "sm90/warpgroups.h"

namespace octavo::cuda {

inline constexpr int kLoaders = 4;  // warps: of K, of V, one that makes V ready, one that schedules
inline constexpr int kBlockThreads = kThreads + kLoaders * kWarp;
inline constexpr bool kWholeGroups = OCTAVO_WHOLE_GROUPS;  // a warpgroup's rows are whole tokens

// Barriers of the block, beside that of __syncthreads.
inline constexpr int kRowThreads = 1;  ///< of all threads with rows
inline constexpr int kFirstGroup = 2;  ///< of a warpgroup, each its own
inline constexpr int kFirstTurn = 5;   ///< of a warpgroup and the one before it

struct Shared {
  alignas(1024) QueryTile q;
  alignas(1024) unsigned char k[kStages][kKeySlabs * kSlabBytes];
  alignas(1024) unsigned char v[kStages][kValueSlabs * kSlabBytes];
  Items items;
  Barrier q_full;   ///< where Q comes by boxes: of items, in their order
  Barrier q_empty;  ///< the same, when its last scores are there
  Barrier k_full[kStages];
  Barrier k_empty[kStages];
  Barrier v_full[kStages];
  Barrier v_empty[kStages];
  Barrier v_ready[kStages];  ///< after v_full: what is not to be read is 0
  bool v_special[kStages];   ///< of items done with care: there are infinite or NaN values
};

}  // namespace octavo::cuda
