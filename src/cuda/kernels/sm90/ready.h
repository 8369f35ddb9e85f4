// What a warp does for those with rows: it asks for Q by boxes, and makes tiles of V ready. What is
// not to be read becomes 0, because 0 times garbage is not 0. Of items that are done with care,
// infinite and NaN values are found, which those with rows then settle.
#pragma once

#include "ptx/packed.h"
#include "ptx/tma.h"
#include "sm90/queries.h"
#include "sm90/shared.h"
#include "tiled/mask.h"

namespace octavo::cuda {

inline constexpr int kTileChunks = kValueSlabs * kSlabBytes / 16;  // of 16 bytes

/// By a warp: puts zeros into rows [first, last) of a tile of V.
__device__ inline void clear_rows(unsigned char* values, const TileSteps& steps, int first,
                                  int last) {
  constexpr int kChunks = kRowBytes / 16;
  const int lane = lane_of_warp();
#pragma unroll 4
  for (int row = first + lane / kChunks; row < last; row += kWarp / kChunks) {
#pragma unroll
    for (int slab = 0; slab < kValueSlabs; ++slab) {
      *reinterpret_cast<uint4*>(values + place_in_tile(steps, row, slab, lane % kChunks * 16)) = {
          0, 0, 0, 0};
    }
  }
}

/// By a warp: whether a tile of V has infinite or NaN values.
__device__ inline bool has_specials(const unsigned char* values) {
  uint4 largest{0, 0, 0, 0};
#pragma unroll 8
  for (int at = lane_of_warp(); at < kTileChunks; at += kWarp) {
    const uint4 words = reinterpret_cast<const uint4*>(values)[at];
    largest = {largest_magnitudes<kHalf>(largest.x, words.x),
               largest_magnitudes<kHalf>(largest.y, words.y),
               largest_magnitudes<kHalf>(largest.z, words.z),
               largest_magnitudes<kHalf>(largest.w, words.w)};
  }
  return __any_sync(kAllLanes, (carries_of(largest) & kSigns) != 0);
}

/// Whether its Q can come by boxes.
__device__ inline bool are_boxed(const Sm90Params& p, const Item& item) {
  return kWholeGroups && p.q.exist && are_whole(p, item.rows);
}

/// By a warp, when nothing reads the item's before any more: a box for each warpgroup that has rows
/// and each slab.
__device__ inline void load_queries(const Sm90Params& p, const Item& item, Shared& shared) {
  const RowTile& tile = item.rows.tile;
  const int lane = lane_of_warp();
  const int groups = are_boxed(p, item) ? ceil_div(tile.rows, kRowsOfGroup) : 0;
  if (lane == 0) arrive_expecting(shared.q_full, groups * kKeySlabs * kGroupSlabBytes);
  __syncwarp();
  if (lane >= groups * kKeySlabs) return;
  const int group = lane / kKeySlabs;
  const int slab = lane % kKeySlabs;
  const int32_t token = divide(tile.first_row + group * kRowsOfGroup, p.group).quotient;
  copy_box(&p.q.map, slab * kSlabColumns, item.rows.kv_head * p.group.value,
           tile.place.q_begin + token, shared_address(shared.q[group][slab]), shared.q_full);
}

/// By a warp, of every item: its Q by boxes, and then its tiles of V made ready.
__device__ inline void make_ready(const Sm90Params& p, Shared& shared) {
  const TileSteps& steps = p.v.steps;
  for (int n = 0;; ++n) {
    const Item& item = shared.items.take(n);
    if (!item.exists) return;
    if constexpr (kWholeGroups) {
      if (n > 0) wait(shared.q_empty, (n - 1) % 2);
      load_queries(p, item, shared);
    }
    for (int32_t i = item.begin; i < item.end; ++i) {
      const Turn<> turn(i);
      wait(shared.v_full[turn.stage], turn.parity);
      const int32_t first = item.first_of(i);
      unsigned char* const values = shared.v[turn.stage];
      if (first < item.keys.begin || item.keys.end - first < kKeys) {
        clear_rows(values, steps, 0, item.keys.begin - first);
        clear_rows(values, steps, item.keys.end - first, kKeys);
        fence_async_proxy();
      }
      __syncwarp();
      const bool special = kMasked && item.careful && has_specials(values);
      if (lane_of_warp() != 0) continue;
      shared.v_special[turn.stage] = special;
      arrive(shared.v_ready[turn.stage]);
    }
    shared.items.release(n);
  }
}

/// By all threads that have rows: adds the infinite and NaN values of a tile to the sums of rows
/// that see them, and puts zeros in their place. `first`: the tile's first key.
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
