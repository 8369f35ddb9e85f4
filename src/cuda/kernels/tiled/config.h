// The kernel's compile-time parameters, from the variant's definitions.
#pragma once

#include "ptx/convert.h"

namespace octavo::cuda {

inline constexpr int kRows = OCTAVO_ROWS;  // of a thread block's tile: query tokens times the group
inline constexpr int kWarps = OCTAVO_WARPS;  // of a thread block; each has rows of its own
inline constexpr int kKeys = OCTAVO_KEYS;    // of a tile of K and V
inline constexpr int kKeyWarps =
    OCTAVO_KEY_WARPS;  // that have the same rows, and share a tile's keys
inline constexpr int kWarpKeys = kKeys / kKeyWarps;
inline constexpr int kD = OCTAVO_D;    // head dims, rounded up to multiples of 32
inline constexpr int kDv = OCTAVO_DV;  // of the slice of V that a thread block takes
inline constexpr Half kHalf = OCTAVO_BF16 ? Half::bf16 : Half::f16;  // what is multiplied
inline constexpr int kKvBytes = OCTAVO_KV_BYTES;                     // of an element of K and V
inline constexpr Fp8 kFp8 = OCTAVO_E5M2 ? Fp8::e5m2 : Fp8::e4m3;     // where that is 1
inline constexpr bool kMasked = OCTAVO_MASKED;                       // not every row sees every key
inline constexpr bool kCapAlibiOrBits = OCTAVO_CAP_ALIBI_OR_BITS;    // one of them, or more

inline constexpr int kThreads = kWarps * 32;
inline constexpr int kRowsOfWarp = kRows / kWarps;
inline constexpr int kBlocks = kRowsOfWarp / 16;  // of 16 rows, of a warp
inline constexpr int kKeyTiles = kWarpKeys / 8;
inline constexpr int kValueTiles = kDv / 8;

static_assert(kRowsOfWarp % 16 == 0 && kWarpKeys % 16 == 0);
static_assert(kWarps == 1 || kKeyWarps == 1);
static_assert(kD % 32 == 0 && kDv % 32 == 0);

}  // namespace octavo::cuda
