// Which items a thread block does: it has a first, and takes the next that no other has taken. Long
// ones come first, so that the last end together; what an item's result is does not depend on it.
#pragma once

#include "sm90/items.h"

namespace octavo::cuda {

/// The tasks of a launch: units of requests, times KV heads.
class Tasks {
 public:
  /// All lanes of a warp call it, as they do the others.
  __device__ explicit Tasks(const Sm90Params& p)
      : p_(p), units_(p.heads_together == p.attention.hkv ? kUncounted : count_units()) {}

  /// How many there are.
  __device__ unsigned count() const {
    return (units_ == kUncounted ? count_units() : units_) *
           static_cast<unsigned>(p_.attention.hkv);
  }

  /// Number `number`: false if there is no such, or nothing to do.
  __device__ bool find(unsigned number, Task& task) const {
    const auto together = static_cast<unsigned>(p_.heads_together);
    unsigned first_head = 0;
    if (units_ != kUncounted) {
      const unsigned of_section = units_ * together;
      if (of_section == 0) return false;
      const unsigned section = number / of_section;
      first_head = section * together;
      if (first_head >= static_cast<unsigned>(p_.attention.hkv)) return false;
      number -= section * of_section;
    }
    const unsigned unit = number / together;
    task.kv_head = static_cast<int32_t>(first_head + number - unit * together);
    const Place place =
        find_place(p_.attention, static_cast<int32_t>(unit),
                   [&](int32_t q_len, int32_t kv_len) { return tiling(q_len, kv_len).units(); });
    if (place.request < 0) return false;
    task.tile = row_tile<kRows, kKeys>(p_, place);
    const RowTile& tile = task.tile;
    const int32_t splits = tile.tiling.splits;
    const int32_t split = splits > 1 ? place.unit % splits : 0;
    task.keys = tile.keys_of_split(split);
    task.partial = 0;
    if (!tile.is_split()) return split == 0;
    if (split < tile.first_split || split >= tile.end_split) return false;
    task.partial = partials_before<kRows, kKeys>(p_, place.request) + place.unit;
    return true;
  }

 private:
  __device__ Tiling tiling(int32_t q_len, int32_t kv_len) const {
    return tiling_of<kRows, kKeys>(p_, q_len, kv_len);
  }

  __device__ unsigned count_units() const {
    return static_cast<unsigned>(sum_of_requests(
        p_.attention, p_.attention.requests,
        [&](int32_t q_len, int32_t kv_len) { return tiling(q_len, kv_len).units(); }));
  }

  static constexpr unsigned kUncounted = 0xffffffff;

  const Sm90Params& p_;
  unsigned units_;  ///< where that must be known to find one
};

/// By a warp. `n`: items, 0 or 1, that are described already.
__device__ inline void schedule(const Sm90Params& p, const Tasks& tasks, Items& items, int n) {
  const int lane = lane_of_warp();
  if (n > 0) arrive(items.full[0]);
  const unsigned all = tasks.count();
  unsigned number = blockIdx.x;
  int32_t tiles = n > 0 ? items.at(0).end : 0;
  bool found = false;
  for (;; ++n) {
    // Not before it must, or the last items would be taken by blocks that are not the first to end.
    if (n > 0 && p.taken != nullptr) wait(items.late, (n - 1) % 2);
    while (!found && number < all) {
      if (p.taken == nullptr) {
        number += gridDim.x;
      } else {
        const unsigned taken = lane == 0 ? atomicAdd(p.taken, 1u) : 0;
        number = gridDim.x + __shfl_sync(kAllLanes, taken, 0);
      }
      Task task;
      found = number < all && tasks.find(number, task);
      if (lane == 0) items.found = task;
    }
    Item& item = items.at(n);
    Item* failed = nullptr;
    if (n >= kItems && items.wait_for_release(n - kItems).again) failed = &item;
    // Items end with the last one's success.
    if (kMasked && failed == nullptr && !found && n > 0 && items.wait_for_release(n - 1).again) {
      failed = &items.at(n - 1);
    }
    const bool again = kMasked && failed != nullptr;
    if (again && lane == 0) {
      items.again = failed->task();
      failed->again = false;
    }
    __syncwarp();
    if (again || found) {
      item.describe(p, again ? items.again : items.found, tiles, again, lane, kWarp);
      found = found && again;
    } else if (lane == 0) {
      item.exists = false;
    }
    __syncwarp();
    arrive(items.full[Turn<kItems>(n).stage]);
    if (!item.exists) return;
    tiles = item.end;
  }
}

}  // namespace octavo::cuda
