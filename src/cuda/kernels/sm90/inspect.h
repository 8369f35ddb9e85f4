// Tiles of V that not every row sees as a whole: what no row sees becomes 0, because 0 times
// garbage is not 0, and infinite and NaN values that only some rows see are found.
#pragma once

#include "ptx/math.h"
#include "sm90/shared.h"
#include "tiled/mask.h"

namespace octavo::cuda {

inline constexpr int kInspectingWarps = 2;
inline constexpr int kInspectors = kInspectingWarps * kWarp;  // threads

/// By the inspecting warps, of which this thread is number `thread`.
__device__ inline void inspect_values(Shared& shared, int thread) {
  const Block& b = shared.block;
  constexpr int kChunks = kRowBytes / 16;
  int inspected = 0;
  for (int32_t i = 0; i < b.count; ++i) {
    const Turn turn(i);
    wait(shared.v_full[turn.stage], turn.parity);
    if (b.is_plain(i)) {  // waited for all the same: phases tell apart only neighbours
      __syncwarp();
      if (lane_of_warp() == 0) arrive(shared.v_empty[turn.stage]);
      continue;
    }
    unsigned carries = 0;
    for (int at = thread; at < kKeys * kChunks; at += kInspectors) {
      const int32_t key = b.first_of(i) + at / kChunks;
      const bool read = key >= b.keys.begin && key < b.keys.end;
#pragma unroll
      for (int slab = 0; slab < kValueSlabs; ++slab) {
        uint4& words = *reinterpret_cast<uint4*>(&shared.v[turn.stage][slab][at * 16]);
        if (!read) {
          words = {0, 0, 0, 0};
        } else if (kMasked) {
          carries |= carries_of(words);
        }
      }
    }
    const bool special = __any_sync(kAllLanes, (carries & kSigns) != 0);
    const Turn clean(inspected++);
    shared.v_special[clean.stage][thread / kWarp] = special;
    fence_async_proxy();
    arrive(shared.v_clean[clean.stage]);
    __syncwarp();
    if (lane_of_warp() == 0) arrive(shared.v_empty[turn.stage]);
  }
}

/// What follows inspection, by the threads that have rows: adds specials of tile i, number
/// `inspected` of those, to the sums of rows that see them, and puts zeros in their place.
__device__ inline void settle_specials(const TiledParams& p, Shared& shared, int32_t i,
                                       int inspected, Sums& sums) {
  const Turn clean(inspected);
  wait(shared.v_clean[clean.stage], clean.parity);
  if (!shared.v_special[clean.stage][0] && !shared.v_special[clean.stage][1]) return;
  unsigned char* values = shared.v[Turn(i).stage][0];
  add_specials(sums, p, shared.rows, shared.block.first_of(i), [&](int key, int column) {
    return values + column / kSlabColumns * kSlabBytes + swizzled(key, column % kSlabColumns * 2);
  });
  sync_threads(kRowThreads, kThreads);
  for (int at = static_cast<int>(threadIdx.x); at < kValueSlabs * kSlabBytes / 4; at += kThreads) {
    unsigned& elements = reinterpret_cast<unsigned*>(values)[at];
    elements = without_specials(elements);
  }
  fence_async_proxy();
  sync_threads(kRowThreads, kThreads);
}

}  // namespace octavo::cuda
