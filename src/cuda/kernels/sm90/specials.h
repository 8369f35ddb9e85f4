// Infinite and NaN values of a tile of V, whose products with weights of 0 would be NaN.
#pragma once

#include "ptx/mbarrier.h"
#include "sm90/warpgroups.h"
#include "tiled/mask.h"

namespace octavo::cuda {

/// By all threads that have rows: adds them to the sums of rows that see them, and puts zeros in
/// their place. `first`: the tile's first key.
__device__ inline void settle_specials(const Sm90Params& p, unsigned char* values, const Rows& rows,
                                       int32_t first, Sums& sums) {
  add_specials(sums, p, rows, first, [&](int key, int column) {
    return values + place_in_tile(p.v.steps, key, column / kSlabColumns, column % kSlabColumns * 2);
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
