// Which items a thread block does: it has a first, and takes the next that no other has taken. Long
// ones come first, so that the last end together; what an item's result is does not depend on it.
#pragma once

#include "sm90/params.h"
#include "sm90/shared.h"

namespace octavo::cuda {

/// What an item is made from.
struct Task {
  RowTile tile;
  int32_t kv_head;
  KeyRange keys;

  /// Number `number` of the launch: false if there is no such, or nothing to do. All lanes of a
  /// warp call it.
  __device__ bool find(const Sm90Params& p, int64_t number) {
    const int64_t of_section = p.units * p.heads_together;
    const int64_t in_section = number % of_section;
    const int64_t unit = in_section / p.heads_together;
    kv_head = static_cast<int32_t>(number / of_section * p.heads_together +
                                   in_section % p.heads_together);
    const Place place =
        find_place(p.attention, static_cast<int32_t>(unit), [&](int32_t q_len, int32_t kv_len) {
          return tiling_of<kRows, kKeys>(p, q_len, kv_len).units();
        });
    if (place.request < 0) return false;
    tile = row_tile<kRows, kKeys>(p, place);
    const int32_t split = place.unit % tile.tiling.splits;
    keys = tile.keys_of_split(split);
    return tile.is_split() ? split >= tile.first_split && split < tile.end_split : split == 0;
  }
};

/// By a warp. `n`: items, 0 or 1, that are described already.
__device__ inline void schedule(const Sm90Params& p, Shared& shared, int n) {
  const int lane = lane_of_warp();
  if (n > 0) arrive(shared.item_full[0]);
  const int64_t all = p.units * p.attention.hkv;
  int64_t number = blockIdx.x;
  int32_t tiles = n > 0 ? shared.items[0].end : 0;
  for (;; ++n) {
    Task task;
    bool exists = false;
    // Not before it must, or the last items would be taken by blocks that are not the first to end.
    if (n > 0 && p.taken != nullptr) wait(shared.item_late, (n - 1) % 2);
    while (!exists && number < all) {
      if (p.taken == nullptr) {
        number += gridDim.x;
      } else {
        unsigned long long taken = lane == 0 ? atomicAdd(p.taken, 1ull) : 0;
        number = static_cast<int64_t>(gridDim.x + __shfl_sync(kAllLanes, taken, 0));
      }
      exists = number < all && task.find(p, number);
    }
    const Turn<kItems> turn(n);
    if (n >= kItems) wait(shared.item_empty[turn.stage], turn.parity ^ 1);
    Item& item = shared.items[turn.stage];
    if (exists) {
      item.describe(p, task.tile, task.kv_head, task.keys, tiles, lane, kWarp);
    } else if (lane == 0) {
      item.exists = false;
    }
    __syncwarp();
    arrive(shared.item_full[turn.stage]);
    if (!exists) return;
    tiles = item.end;
  }
}

}  // namespace octavo::cuda
