// The items of a thread block on their way from the warp that finds them to all others.
#pragma once

#include "ptx/mbarrier.h"
#include "sm90/item.h"
#include "sm90/slabs.h"
#include "tiled/fragments.h"

namespace octavo::cuda {

inline constexpr int kItems = 2;      // the one under way and the next
inline constexpr int kLateTiles = 6;  // of an item, at whose loads the next is taken

struct Items {
  Item item[kItems];
  Task found;  ///< for the next item
  Task again;  ///< of one that is to be done again
  Barrier full[kItems];
  Barrier empty[kItems];
  Barrier late;  ///< an item's last tiles are under way

  /// By one thread. `readers`: warps that take and release them.
  __device__ void init(int readers) {
    for (int place = 0; place < kItems; ++place) {
      init_barrier(full[place], kWarp);
      init_barrier(empty[place], readers * kWarp);
    }
    init_barrier(late, 1);
  }
  /// Number `n` of the thread block.
  __device__ Item& at(int n) { return item[Turn<kItems>(n).stage]; }
  /// By every warp but the one that finds them: when it is known.
  __device__ const Item& take(int n) {
    const Turn<kItems> turn(n);
    wait(full[turn.stage], turn.parity);
    return item[turn.stage];
  }
  /// Whether it is, for who took the one before.
  __device__ bool is_known(int n) {
    const Turn<kItems> turn(n);
    return has_ended(full[turn.stage], turn.parity);
  }
  /// After a lane's last look at it.
  __device__ void release(int n) { arrive(empty[Turn<kItems>(n).stage]); }
  /// By the warp that finds them: when all have released it.
  __device__ Item& wait_for_release(int n) {
    const Turn<kItems> turn(n);
    wait(empty[turn.stage], turn.parity);
    return item[turn.stage];
  }
};

}  // namespace octavo::cuda
