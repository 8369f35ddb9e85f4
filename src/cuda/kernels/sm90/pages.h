// Keys of a request, and their values, from pages into a tile in shared memory.
#pragma once

#include "ptx/cp_async.h"
#include "ptx/tma.h"
#include "sm90/slabs.h"
#include "tiled/fragments.h"
#include "tiled/work.h"

namespace octavo::cuda {

/// K, or V.
struct KvTensor {
  const KvParam& kv;
  const BoxedView& boxes;
  int32_t columns;
  int slabs;
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

/// Asks for the box of a page that begins at a slot. `to`: where it goes in a tile.
__device__ inline void copy_page_box(const Sm90Params& p, const KvTensor& from, int32_t kv_head,
                                     const KeySlot& at, unsigned to, Barrier& full) {
  const BoxedView& view = from.boxes;
  if (p.folded) {
    const int page_head = view.head_slabs == 0 ? kv_head : 0;
    copy_box(&view.map, 0, 0, kv_head * view.head_slabs, at.slot / 8,
             at.page * view.page_heads + page_head, to, full);
    return;
  }
  for (int slab = 0; slab < from.slabs; ++slab) {
    copy_box(&view.map, slab * kSlabColumns, at.slot, kv_head, at.page, to + slab * view.steps.slab,
             full);
  }
}

/// A number of so many bytes.
template <int Bytes>
struct Unsigned {
  using Type = unsigned short;
};
template <>
struct Unsigned<1> {
  using Type = unsigned char;
};
using Element = Unsigned<kKvBytes>::Type;  // of K or V

/// The elements of 16 bytes from `at` on, one by one, zeros after the first `count`.
__device__ inline uint4 gather(const Element* at, int count) {
  constexpr int kOfWord = 4 / kKvBytes;
  unsigned words[4] = {0, 0, 0, 0};
#pragma unroll
  for (int e = 0; e < 4 * kOfWord; ++e) {
    if (e < count) {
      words[e / kOfWord] |= static_cast<unsigned>(at[e]) << (e % kOfWord * 8 * kKvBytes);
    }
  }
  return {words[0], words[1], words[2], words[3]};
}

/// By a warp, row by row: for pages that boxes do not fit, and for any alignment. Eight lanes share
/// a key. Of the tile that begins with `first`, keys outside `keys` are zeros. They are there after
/// wait_for_copies and fence_async_proxy.
__device__ inline void copy_rows(const Sm90Params& p, const KvTensor& from, const Place& place,
                                 int32_t kv_head, const KeyRange& keys, int32_t first,
                                 unsigned char* tile) {
  constexpr int kChunk = 16 / kKvBytes;  // elements
  const int lane = lane_of_warp();
  const int chunk = lane % 8;
  const auto* const data = static_cast<const Element*>(from.kv.data);
#pragma unroll 1
  for (int row = lane / 8; row < kKeys; row += 4) {
    const int32_t key = first + row;
    const bool wanted = key >= keys.begin && key < keys.end;
    const KeySlot at = wanted ? find_key(p, place, key) : KeySlot{0, 0};
    const Element* source = data + at.page * from.kv.page_stride + at.slot * from.kv.slot_stride +
                            kv_head * from.kv.head_stride + chunk * kChunk;
    unsigned char* to = tile + place_in_tile(from.boxes.steps, row, 0, chunk * 16);
#pragma unroll 1
    for (int slab = 0; slab < from.slabs; ++slab) {
      const int left = wanted ? from.columns - slab * kSlabColumns - chunk * kChunk : 0;
      const int count = min(max(left, 0), kChunk);
      const Element* elements = count == 0 ? data : source + slab * kSlabColumns;
      if (p.kv_whole) {
        copy_async_16(shared_address(to + slab * from.boxes.steps.slab), elements,
                      count * kKvBytes);
      } else {
        *reinterpret_cast<uint4*>(to + slab * from.boxes.steps.slab) = gather(elements, count);
      }
    }
  }
}

}  // namespace octavo::cuda
