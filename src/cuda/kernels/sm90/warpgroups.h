// Warpgroups with rows of their own, and their Q in shared memory.
#pragma once

#include "sm90/item.h"
#include "sm90/slabs.h"

namespace octavo::cuda {

inline constexpr int kWarpgroups = kWarps / 4;
inline constexpr int kGroupThreads = 128;
inline constexpr int kGroupSlabBytes = kRowsOfGroup * kRowBytes;

static_assert(kRows == kWarpgroups * kRowsOfGroup && kKvBytes == 2);

/// A slab of 64 columns after another, of each warpgroup.
using QueryTile = unsigned char[kWarpgroups][kKeySlabs][kGroupSlabBytes];

}  // namespace octavo::cuda
