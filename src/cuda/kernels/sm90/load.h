// Tiles of K and V from pages into shared memory: a warp for either. Tokens that no row of the
// thread block may see are not read.
#pragma once

#include "ptx/cp_async.h"
#include "ptx/tma.h"
#include "sm90/items.h"

namespace octavo::cuda {

/// K, or V, of a thread block.
struct Source {
  const KvParam& kv;
  const BoxedView& boxes;
  int32_t columns;
  int slabs;
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

/// Where a key lies.
struct KeySlot {
  int32_t page;
  int32_t slot;
};

__device__ inline KeySlot find_key(const Sm90Params& p, const Place& place, int32_t key) {
  const AttentionParams& a = p.attention;
  if (a.page_table == nullptr) return {0, static_cast<int32_t>(place.kv_begin) + key};
  const Quotient at = divide(key, p.page);
  return {a.page_table[place.request * a.page_table_stride + at.quotient], at.remainder};
}

/// An item's tiles of keys by boxes of pages. Pages that have no key to be read are left out.
__device__ inline void load_boxes(const Sm90Params& p, const Item& item, const Source& from) {
  const int lane = lane_of_warp();
  const int rows = p.box_rows;
  const TensorMap* const map = &from.boxes.map;
  const int head_slab = item.rows.kv_head * from.boxes.head_slabs;
  const int head_page = from.boxes.head_slabs == 0 ? item.rows.kv_head : 0;
  KeySlot next{};
  bool next_wanted = false;
  const auto find = [&](int32_t tile) {
    const int32_t key = item.first_of(tile) + lane * rows;
    next_wanted = lane * rows < kKeys && key < item.keys.end && key + rows > item.keys.begin;
    if (next_wanted) next = find_key(p, item.rows.tile.place, key);
  };
  find(item.begin);
  for (int32_t i = item.begin; i < item.end; ++i) {
    from.tell_late(item, i);
    const bool wanted = next_wanted;
    const KeySlot at = next;
    find(i + 1);  // a tile ahead, because the page table is far
    const unsigned boxes = __ballot_sync(kAllLanes, wanted);
    const Turn<> turn(i);
    if (i >= kStages) wait(from.empty[turn.stage], turn.parity ^ 1);
    if (lane == 0) {
      arrive_expecting(from.full[turn.stage], __popc(boxes) * rows * kRowBytes * from.slabs);
    }
    __syncwarp();
    if (!wanted) continue;
    const unsigned to =
        shared_address(from.tile(turn.stage)) + lane * (rows / 8) * from.boxes.steps.rows;
    if (p.folded) {
      copy_box(map, 0, 0, head_slab, at.slot / 8, at.page * from.boxes.page_heads + head_page, to,
               from.full[turn.stage]);
      continue;
    }
    for (int slab = 0; slab < from.slabs; ++slab) {
      copy_box(map, slab * kSlabColumns, at.slot, item.rows.kv_head, at.page,
               to + slab * from.boxes.steps.slab, from.full[turn.stage]);
    }
  }
}

/// Eight elements from `at` on, one by one, zeros after the first `count`.
__device__ inline uint4 gather(const unsigned short* at, int count) {
  unsigned words[4] = {0, 0, 0, 0};
#pragma unroll
  for (int e = 0; e < 8; ++e) {
    if (e < count) words[e / 2] |= static_cast<unsigned>(at[e]) << (e % 2 * 16);
  }
  return {words[0], words[1], words[2], words[3]};
}

/// By rows: for pages that boxes do not fit, and for any alignment. Eight lanes share a key.
__device__ inline void load_rows(const Sm90Params& p, const Item& item, const Source& from) {
  const int lane = lane_of_warp();
  const int chunk = lane % 8;
  for (int32_t i = item.begin; i <= item.end; ++i) {
    if (i < item.end) {
      from.tell_late(item, i);
      const Turn<> turn(i);
      if (i >= kStages) wait(from.empty[turn.stage], turn.parity ^ 1);
      unsigned char* tile = from.tile(turn.stage);
#pragma unroll 1
      for (int row = lane / 8; row < kKeys; row += 4) {
        const int32_t key = item.first_of(i) + row;
        const bool wanted = key >= item.keys.begin && key < item.keys.end;
        const KeySlot at = wanted ? find_key(p, item.rows.tile.place, key) : KeySlot{0, 0};
        const unsigned short* source =
            static_cast<const unsigned short*>(from.kv.data) + at.page * from.kv.page_stride +
            at.slot * from.kv.slot_stride + item.rows.kv_head * from.kv.head_stride + chunk * 8;
        unsigned char* to = tile + place_in_tile(from.boxes.steps, row, 0, chunk * 16);
#pragma unroll 1
        for (int slab = 0; slab < from.slabs; ++slab) {
          const int left = wanted ? from.columns - slab * kSlabColumns - chunk * 8 : 0;
          const int count = min(max(left, 0), 8);
          const unsigned short* elements = count == 0
                                               ? static_cast<const unsigned short*>(from.kv.data)
                                               : source + slab * kSlabColumns;
          if (p.kv_whole) {
            copy_async_16(shared_address(to + slab * from.boxes.steps.slab), elements, count * 2);
          } else {
            *reinterpret_cast<uint4*>(to + slab * from.boxes.steps.slab) = gather(elements, count);
          }
        }
      }
    }
    commit_copies();
    if (i == item.begin) continue;
    wait_for_copies<1>();  // the tile before is there
    fence_async_proxy();
    arrive(from.full[Turn<>(i - 1).stage]);
  }
}

/// Of every item.
__device__ inline void load_tiles(const Sm90Params& p, Items& items, const Source& from) {
  if (p.box_rows > 0 && lane_of_warp() == 0) prefetch_map(&from.boxes.map);
  for (int n = 0;; ++n) {
    const Item& item = items.take(n);
    if (!item.exists) return;
    if (item.begin == item.end) from.tell_late(item, item.begin);
    if (p.box_rows > 0) {
      load_boxes(p, item, from);
    } else {
      load_rows(p, item, from);
    }
    items.release(n);
  }
}

}  // namespace octavo::cuda
