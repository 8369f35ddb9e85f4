// What a thread block does: which tile of rows of which request, and which of its keys.
//
//   request r:  rows, query tokens times the group    keys
//               tile 0   [0, kRows)                   split 0   [0, split)
//               tile 1   [kRows, 2 kRows) ...         split 1   [split, 2 split) ...
//
// A row's results of the splits are added up in groups, a group's one after another, then those of
// the groups. Tiles, splits and groups follow from the request's own lengths, so that its bits do
// not depend on the batch. What a thread block takes at a time, a split or a group of them, may.
#pragma once

#include "common/keys.h"
#include "ptx/math.h"
#include "tiled/divide.h"

namespace octavo::cuda {

/// Of numbers that are not negative.
__device__ inline int32_t ceil_div(int32_t a, int32_t b) {
  return static_cast<int32_t>((static_cast<unsigned>(a) + static_cast<unsigned>(b) - 1) /
                              static_cast<unsigned>(b));
}

/// a / b, rounded down unless it is less than a thousandth below the next: a few instructions,
/// where exact division takes many. `b` is above 0.
__device__ inline int32_t divide_about(int32_t a, int32_t b) {
  return static_cast<int32_t>(
      fmaf(static_cast<float>(a), reciprocal_fast(static_cast<float>(b)), 1e-3f));
}

inline constexpr int32_t kLongestSplit = 1 << 30;

/// Of one request.
struct Tiling {
  int32_t rows;
  int32_t tiles;     ///< of rows; 0: another launch takes the request
  int32_t split;     ///< keys of a split
  int32_t group;     ///< splits of a group
  int32_t together;  ///< splits of an item: 1, or a group
  int32_t items;     ///< that any of its tiles may need

  __device__ int32_t units() const { return tiles * items; }
  __device__ int32_t item_keys() const { return split * together; }
  /// Partial results, of a tile each, that it may need room for.
  __device__ int32_t partials() const { return items > 1 ? units() : 0; }
};

/// `longest_item`: see there.
template <int Rows, int Keys>
__device__ Tiling tiling_of(const TiledParams& p, int32_t longest_item, int32_t q_len,
                            int32_t kv_len) {
  const int32_t rows = q_len * p.group.value;
  if (rows < p.fewest_rows || rows > p.most_rows) return {0, 0, 0, 0, 0, 0};
  const int32_t tiles = ceil_div(rows, Rows);
  int32_t split = p.attention.split;
  if (split == 0 && p.shortest_split > 0) {
    // Thread blocks that the request has without splits: more than `blocks_of_request` are enough.
    const unsigned blocks =
        __umulhi(tiles, p.attention.hkv) != 0
            ? 0xffffffffu
            : static_cast<unsigned>(tiles) * static_cast<unsigned>(p.attention.hkv);
    if (blocks <= static_cast<unsigned>(p.blocks_of_request) / 2) {
      const int32_t wanted = divide_about(p.blocks_of_request, static_cast<int32_t>(blocks));
      const int32_t shortest = p.shortest_split >> (kv_len <= p.short_request ? 1 : 0);
      const int32_t splits = max(min(wanted, divide_about(kv_len, shortest)), 1);
      split = divide_about(kv_len, splits);
      const int32_t left = kv_len - split * splits;
      if (left > 0) split += divide_about(left, splits) + 1;
    }
  }
  if (split == 0) return {rows, tiles, kLongestSplit, 1, 1, 1};
  split = ceil_div(min(split, kLongestSplit), Keys) * Keys;
  const int32_t group = max(divide_about(kGroupKeys, split), 1);
  const int32_t together = group * split <= longest_item ? group : 1;
  return {rows, tiles, split, group, together, max(ceil_div(kv_len, split * together), 1)};
}

/// How many keys an item may have that is a group of splits: a little more than a thread block has
/// to do, where a tile has all rows of a request; 0: items are single splits. All lanes of a warp
/// call it.
template <int Rows, int Keys>
__device__ int32_t longest_item(const TiledParams& p) {
  if (p.item_blocks == 0) return 0;
  const int64_t keys =
      sum_of_requests(p.attention, p.attention.requests, [&](int32_t q_len, int32_t kv_len) {
        return tiling_of<Rows, Keys>(p, 0, q_len, kv_len).tiles > 0 ? kv_len : 0;
      });
  const int64_t of_block = keys * p.attention.hkv / p.item_blocks;
  return static_cast<int32_t>(min(of_block + of_block / 4, int64_t{kLongestSplit}));
}

/// A unit of a request: a tile of rows, and an item.
struct Unit {
  Place place;  ///< its unit: tile * items + item
  Tiling tiling;
  int64_t partials;  ///< of the requests before
};

/// Unit `index` of the batch, where a request has `units_of(tiling)` of them. All lanes of a warp
/// call it with the same index.
template <int Rows, int Keys, typename UnitsOf>
__device__ Unit find_unit(const TiledParams& p, int32_t longest_item, int32_t index,
                          const UnitsOf& units_of) {
  Tiling own{};  // of the request that this lane has looked at last
  int32_t own_request = static_cast<int32_t>(threadIdx.x) % kWarp - kWarp;
  int32_t partials = 0;  // of those that it has looked at before
  Unit unit{};
  unit.place = find_place(p.attention, index, [&](int32_t q_len, int32_t kv_len) {
    partials += own.partials();
    own = tiling_of<Rows, Keys>(p, longest_item, q_len, kv_len);
    own_request += kWarp;
    return units_of(own);
  });
  if (unit.place.request < 0) return unit;
  const auto of_found = [&](int32_t value) {
    return __shfl_sync(kAllLanes, value, unit.place.request % kWarp);
  };
  unit.tiling = {of_found(own.rows),  of_found(own.tiles),    of_found(own.split),
                 of_found(own.group), of_found(own.together), of_found(own.items)};
  unit.partials = sum_of_lanes(partials + (own_request < unit.place.request ? own.partials() : 0));
  return unit;
}

/// A tile of rows of a request, for one KV head.
struct RowTile : Unit {
  int32_t first_row;  ///< of the request's
  int32_t rows;
  KeyRange keys;  ///< that at least one of the rows may see; begin <= end
  int32_t first_item;
  int32_t end_item;

  __device__ bool is_split() const { return end_item - first_item > 1; }
  /// The number of its unit's partial result, where it is split.
  __device__ int64_t partial() const { return partials + place.unit; }
  /// Those of the item, one of [first_item, end_item); all where the tile is not split.
  __device__ KeyRange keys_of_item(int32_t item) const {
    if (!is_split()) return keys;
    const int32_t length = tiling.item_keys();
    const int32_t begin = item * length;
    const bool last = keys.end - begin <= length;
    return {max(keys.begin, begin), last ? keys.end : begin + length};
  }
};

__device__ inline int32_t unit_of_block(const TiledParams& p) {
  return static_cast<int32_t>(p.heads_first != 0 ? blockIdx.y : blockIdx.x);
}
__device__ inline int32_t head_of_block(const TiledParams& p) {
  return static_cast<int32_t>(p.heads_first != 0 ? blockIdx.x : blockIdx.y);
}

/// Later tokens see later keys, whatever the mask.
__device__ inline KeyRange keys_of_rows(const TiledParams& p, const Place& place, int32_t first_row,
                                        int32_t last_row) {
  const int32_t first = place.position(divide(first_row, p.group).quotient);
  const int32_t last = place.position(divide(last_row, p.group).quotient);
  const int32_t begin = visible_keys(p.attention, first, place.kv_len).begin;
  const int32_t end = visible_keys(p.attention, last, place.kv_len).end;
  return {begin, max(begin, end)};
}

/// The last tiles come first: under a causal mask they take the longest.
template <int Rows>
__device__ RowTile row_tile(const TiledParams& p, const Unit& unit) {
  RowTile tile{unit, 0, 0, {0, 0}, 0, 0};
  const Place& place = unit.place;
  const int32_t items = tile.tiling.items;
  const int32_t index = tile.tiling.tiles - 1 - (items > 1 ? place.unit / items : place.unit);
  tile.first_row = index * Rows;
  tile.rows = min(Rows, tile.tiling.rows - tile.first_row);
  tile.keys = keys_of_rows(p, place, tile.first_row, tile.first_row + tile.rows - 1);
  tile.first_item = 0;
  tile.end_item = 1;
  if (tile.tiling.items > 1) {
    tile.first_item = tile.keys.begin / tile.tiling.item_keys();
    tile.end_item = ceil_div(tile.keys.end, tile.tiling.item_keys());
  }
  return tile;
}

}  // namespace octavo::cuda
