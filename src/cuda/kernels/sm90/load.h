// Tiles of K and V from pages into shared memory: a warp for either. Tokens that no row of the
// thread block may see are not read.
#pragma once

#include "sm90/items.h"
#include "sm90/pages.h"

namespace octavo::cuda {

/// K, or V, and a thread block's ring of its tiles.
struct Source : KvTensor {
  unsigned char* tiles;  ///< [kStages][slabs * kSlabBytes]
  Barrier* full;
  Barrier* empty;
  Barrier* late;  ///< where it tells that an item's last tiles are under way, or null

  __device__ unsigned char* tile(int stage) const { return tiles + stage * slabs * kSlabBytes; }
  /// Before tile i is asked for.
  __device__ void tell_late(const Item& item, int32_t i) const {
    if (late == nullptr || i != max(item.begin, item.end - kLateTiles)) return;
    if (lane_of_warp() == 0) arrive(*late);
  }
};

/// Tiles of keys by boxes of pages, of one item after another. Pages that have no key to be read
/// are left out. Each lane finds a box of a run of tiles, and asks for it in its turn. The page
/// table is far, above all while memory is busy, so runs are found before the run before them is
/// loaded.
class BoxLoader {
 public:
  __device__ BoxLoader(const Sm90Params& p, Items& items, const Source& from)
      : p_(p), items_(items), from_(from) {
    const int boxes = kKeys / p.box_rows;  // of a tile, 32 at most
    run_tiles_ = kWarp / boxes;
    tile_ = lane_of_warp() / boxes;
    box_ = lane_of_warp() % boxes;
    if (lane_of_warp() == 0) prefetch_map(&from.boxes.map);
  }

  /// Item number `n`.
  __device__ void load(const Item& item, int n) {
    Found found = is_next_ ? next_ : find(item, item.begin);
    is_next_ = false;
    for (int32_t run = item.begin; run < item.end; run += run_tiles_) {
      const int32_t run_end = min(run + run_tiles_, item.end);
      Found ahead{};
      if (run_end < item.end) ahead = find(item, run_end);
      for (int32_t i = run; i < run_end; ++i) {
        from_.tell_late(item, i);
        ask(item, i, found.wanted && tile_ == i - run, found.at);
        if (run_end == item.end) look_ahead(n + 1);
      }
      found = ahead;
    }
  }

 private:
  struct Found {
    bool wanted;
    KeySlot at;
  };

  /// This lane's box of the run that begins with a tile.
  __device__ Found find(const Item& item, int32_t first_tile) const {
    const int32_t key = item.first_of(first_tile + tile_) + box_ * p_.box_rows;
    Found found{};
    found.wanted = tile_ < run_tiles_ && key < item.keys.end && key + p_.box_rows > item.keys.begin;
    if (found.wanted) found.at = find_key(p_, item.rows.tile.place, key);
    return found;
  }

  /// Finds the first run of item `n` once that is known.
  __device__ void look_ahead(int n) {
    if (is_next_ || !items_.is_known(n) || !items_.at(n).exists) return;
    next_ = find(items_.at(n), items_.at(n).begin);
    is_next_ = true;
  }

  /// For tile `i`: this lane's box, if `wanted`.
  __device__ void ask(const Item& item, int32_t i, bool wanted, const KeySlot& at) const {
    const int rows = p_.box_rows;
    const unsigned boxes = __ballot_sync(kAllLanes, wanted);
    const Turn<> turn(i);
    if (i >= kStages) wait(from_.empty[turn.stage], turn.parity ^ 1);
    Barrier& full = from_.full[turn.stage];
    if (lane_of_warp() == 0) {
      arrive_expecting(full, __popc(boxes) * rows * kRowBytes * from_.slabs);
    }
    __syncwarp();
    if (!wanted) return;
    const unsigned to =
        shared_address(from_.tile(turn.stage)) + box_ * (rows / 8) * from_.boxes.steps.rows;
    copy_page_box(p_, from_, item.rows.kv_head, at, to, full);
  }

  const Sm90Params& p_;
  Items& items_;
  const Source& from_;
  int run_tiles_;
  int tile_;  ///< of a run, that this lane's box is of
  int box_;
  bool is_next_ = false;  ///< found: the first run of the next item
  Found next_{};
};

__device__ inline void load_rows(const Sm90Params& p, const Item& item, const Source& from) {
  for (int32_t i = item.begin; i <= item.end; ++i) {
    if (i < item.end) {
      from.tell_late(item, i);
      const Turn<> turn(i);
      if (i >= kStages) wait(from.empty[turn.stage], turn.parity ^ 1);
      copy_rows(p, from, item.rows.tile.place, item.rows.kv_head, item.keys, item.first_of(i),
                from.tile(turn.stage));
    }
    commit_copies();
    if (i == item.begin) continue;
    wait_for_copies<1>();  // the tile before is there
    fence_async_proxy();
    arrive(from.full[Turn<>(i - 1).stage]);
  }
}

/// Of every item. `load(item, n)`: of item number n.
template <typename Load>
__device__ void load_items(Items& items, const Source& from, Load&& load) {
  for (int n = 0;; ++n) {
    const Item& item = items.take(n);
    if (!item.exists) return;
    if (item.begin == item.end) from.tell_late(item, item.begin);
    load(item, n);
    items.release(n);
  }
}

__device__ inline void load_tiles(const Sm90Params& p, Items& items, const Source& from) {
  if (p.box_rows > 0) {
    BoxLoader loader(p, items, from);
    load_items(items, from, [&](const Item& item, int n) { loader.load(item, n); });
  } else {
    load_items(items, from, [&](const Item& item, int) { load_rows(p, item, from); });
  }
}

}  // namespace octavo::cuda
