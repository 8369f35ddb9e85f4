// Which items a thread block does. Each has a share of the tasks, one after another; or, where
// items may be long, a first one, and the next that no other block has taken: long ones come first,
// so that the last end together. What an item's result is does not depend on it.
#pragma once

#include "sm90/items.h"

namespace octavo::cuda {

/// The tasks of a launch: units of requests, times KV heads. All lanes of a warp call each
/// function.
class Tasks {
 public:
  __device__ explicit Tasks(const Sm90Params& p)
      : p_(p),
        longest_item_(longest_item<kRows, kKeys>(p)),
        units_((are_shared() && p.one_each == 0) || together() != heads() ? count_units()
                                                                          : kUncounted) {}

  /// Whether each block has a share of them.
  __device__ bool are_shared() const { return p_.taken == nullptr; }

  /// The block's first.
  __device__ unsigned first() const {
    return are_shared() && p_.one_each == 0 ? share(blockIdx.x) : blockIdx.x;
  }
  /// Where its numbers end.
  __device__ unsigned end() const {
    if (p_.one_each != 0) return blockIdx.x + 1;
    if (are_shared()) return share(blockIdx.x + 1);
    return (units_ == kUncounted ? count_units() : units_) * heads();
  }

  /// The block's first: false if there is no such, or nothing to do.
  __device__ bool find_first(Task& task) const {
    return !(are_shared() && first() == end()) && find(first(), task);
  }
  /// Number `number`: false if there is no such, or nothing to do. If `is_beside`, it may be found
  /// from `task`, which is the one before.
  __device__ bool find(unsigned number, Task& task, bool is_beside = false) const {
    if (!(is_beside && advance(task))) look_up(number, task);
    return task.tile.place.request >= 0 && complete(task);
  }

 private:
  __device__ unsigned heads() const { return static_cast<unsigned>(p_.attention.hkv); }
  __device__ unsigned together() const { return static_cast<unsigned>(p_.heads_together); }

  /// Where the share of a block begins.
  __device__ unsigned share(unsigned block) const {
    const unsigned all = units_ * heads();
    const unsigned each = all / gridDim.x;
    return block * each + min(block, all - each * gridDim.x);
  }

  /// Head and place of a number; no request: there is no such.
  __device__ void look_up(unsigned number, Task& task) const {
    task.tile.place.request = -1;
    unsigned first_head = 0;
    if (units_ != kUncounted) {
      const unsigned of_section = units_ * together();
      if (of_section == 0) return;
      const unsigned section = number / of_section;
      first_head = section * together();
      if (first_head >= heads()) return;
      number -= section * of_section;
    }
    const unsigned unit = number / together();
    task.kv_head = static_cast<int32_t>(first_head + number - unit * together());
    static_cast<Unit&>(task.tile) =
        find_unit<kRows, kKeys>(p_, longest_item_, static_cast<int32_t>(unit),
                                [](const Tiling& tiling) { return tiling.units(); });
  }

  /// From a task to head and place of the next: false if that is of another request.
  __device__ bool advance(Task& task) const {
    ++task.kv_head;
    if (static_cast<unsigned>(task.kv_head) % together() != 0) return true;
    task.kv_head -= p_.heads_together;
    return ++task.tile.place.unit < task.tile.tiling.units();
  }

  /// From its place: false if there is nothing to do.
  __device__ bool complete(Task& task) const {
    task.tile = row_tile<kRows>(p_, task.tile);
    const RowTile& tile = task.tile;
    const int32_t items = tile.tiling.items;
    const int32_t item = items > 1 ? tile.place.unit % items : 0;
    task.keys = tile.keys_of_item(item);
    return tile.is_split() ? item >= tile.first_item && item < tile.end_item : item == 0;
  }

  __device__ Tiling tiling(int32_t q_len, int32_t kv_len) const {
    return tiling_of<kRows, kKeys>(p_, longest_item_, q_len, kv_len);
  }

  __device__ unsigned count_units() const {
    return static_cast<unsigned>(sum_of_requests(
        p_.attention, p_.attention.requests,
        [&](int32_t q_len, int32_t kv_len) { return tiling(q_len, kv_len).units(); }));
  }

  static constexpr unsigned kUncounted = 0xffffffff;

  const Sm90Params& p_;
  int32_t longest_item_;
  unsigned units_;  ///< where that must be known to find one
};

/// Item 0, by `threads` threads, of which this is number `thread`. When it is there, the 32 lanes
/// of a warp are to arrive at items.full[0].
__device__ inline void describe_first(const Sm90Params& p, const Task& task, Items& items,
                                      int thread, int threads) {
  items.at(0).describe(p, task, 0, false, thread, threads);
  if (thread == 0) items.found = task;
}

/// By a warp. `n`: items, 0 or 1, that others describe: `items.found` is then the task of that.
__device__ inline void schedule(const Sm90Params& p, const Tasks& tasks, Items& items, int n) {
  const int lane = lane_of_warp();
  if (n > 0) items.take(0);
  unsigned number = tasks.first();
  const unsigned end = tasks.end();
  bool is_task = n > 0;  // items.found, of the number
  int32_t tiles = n > 0 ? items.at(0).end : 0;
  bool found = false;
  for (;; ++n) {
    // Not before it must, or the last items would be taken by blocks that are not the first to end.
    if (n > 0 && p.taken != nullptr) wait(items.late, (n - 1) % 2);
    while (!found && number < end) {
      Task task = items.found;
      bool is_beside = false;
      if (tasks.are_shared()) {
        ++number;
        is_beside = is_task;
      } else {
        const unsigned taken = lane == 0 ? atomicAdd(p.taken, 1u) : 0;
        number = gridDim.x + __shfl_sync(kAllLanes, taken, 0);
      }
      found = number < end && tasks.find(number, task, is_beside);
      __syncwarp();
      if (lane == 0) items.found = task;
      __syncwarp();
      is_task = found;
    }
    Item& item = items.at(n);
    Item* failed = nullptr;
    if (n >= kItems && items.wait_for_release(n - kItems).again) failed = &item;
    // Items end with the last one's success.
    if (kMasked && failed == nullptr && !found && n > 0 && items.wait_for_release(n - 1).again) {
      failed = &items.at(n - 1);
    }
    const bool again = kMasked && failed != nullptr;
    __syncwarp();  // all have seen whether it failed
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
