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
  const auto was_done = [&](int item) -> Item& {
    const Turn<kItems> turn(item);
    wait(shared.item_empty[turn.stage], turn.parity);
    return shared.items[turn.stage];
  };
  Task task;
  bool found = false;
  for (;; ++n) {
    // Not before it must, or the last items would be taken by blocks that are not the first to end.
    if (n > 0 && p.taken != nullptr) wait(shared.item_late, (n - 1) % 2);
    while (!found && number < all) {
      if (p.taken == nullptr) {
        number += gridDim.x;
      } else {
        unsigned long long taken = lane == 0 ? atomicAdd(p.taken, 1ull) : 0;
        number = static_cast<int64_t>(gridDim.x + __shfl_sync(kAllLanes, taken, 0));
      }
      found = number < all && task.find(p, number);
    }
    Item& item = shared.items[Turn<kItems>(n).stage];
    Item* failed = nullptr;
    if (n >= kItems && was_done(n - kItems).again) failed = &item;
    // Items end with the last one's success.
    if (kMasked && failed == nullptr && !found && n > 0 && was_done(n - 1).again) {
      failed = &shared.items[Turn<kItems>(n - 1).stage];
    }
    if (kMasked && failed != nullptr) {
      item.describe(p, failed->rows.tile, failed->rows.kv_head, failed->keys, tiles, true, lane,
                    kWarp);
      if (lane == 0) failed->again = false;
    } else if (found) {
      item.describe(p, task.tile, task.kv_head, task.keys, tiles, false, lane, kWarp);
      found = false;
    } else if (lane == 0) {
      item.exists = false;
    }
    __syncwarp();
    arrive(shared.item_full[Turn<kItems>(n).stage]);
    if (!item.exists) return;
    tiles = item.end;
  }
}

}  // namespace octavo::cuda
