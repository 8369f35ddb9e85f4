// What a thread block does: which tile of rows of which request, and which of its keys.
//
//   request r:  rows, query tokens times the group    keys
//               tile 0   [0, kRows)                   split 0   [0, split)
//               tile 1   [kRows, 2 kRows) ...         split 1   [split, 2 split) ...
//
// Both follow from the request's own lengths, so that its bits do not depend on the batch.
#pragma once

#include "common/keys.h"
#include "tiled/divide.h"

namespace octavo::cuda {

/// Of numbers that are not negative.
__device__ inline int32_t ceil_div(int32_t a, int32_t b) {
  return static_cast<int32_t>((static_cast<unsigned>(a) + static_cast<unsigned>(b) - 1) /
                              static_cast<unsigned>(b));
}

inline constexpr int32_t kLongestSplit = 1 << 30;

/// Of one request.
struct Tiling {
  int32_t rows;
  int32_t tiles;   ///< of rows; 0: another launch takes the request
  int32_t split;   ///< keys of a split
  int32_t splits;  ///< that any of its tiles may need

  __device__ int32_t units() const { return tiles * splits; }
  /// Partial results, of a tile each, that it may need room for.
  __device__ int32_t partials() const { return splits > 1 ? units() : 0; }
};

template <int Rows, int Keys>
__device__ Tiling tiling_of(const TiledParams& p, int32_t q_len, int32_t kv_len) {
  const int32_t rows = q_len * p.group.value;
  if (rows < p.fewest_rows || rows > p.most_rows) return {0, 0, 0, 0};
  const int32_t tiles = ceil_div(rows, Rows);
  int32_t split = p.attention.split;
  if (split == 0 && p.shortest_split > 0) {
    // Thread blocks that the request has without splits: more than `blocks_of_request` are enough.
    const unsigned blocks =
        __umulhi(tiles, p.attention.hkv) != 0
            ? 0xffffffffu
            : static_cast<unsigned>(tiles) * static_cast<unsigned>(p.attention.hkv);
    const unsigned wanted = static_cast<unsigned>(p.blocks_of_request) / blocks;
    if (wanted > 1) {
      split = max(ceil_div(kv_len, static_cast<int32_t>(wanted)), p.shortest_split);
    }
  }
  if (split == 0) return {rows, tiles, kLongestSplit, 1};
  split = ceil_div(min(split, kLongestSplit), Keys) * Keys;
  return {rows, tiles, split, max(ceil_div(kv_len, split), 1)};
}

/// A tile of rows of a request, for one KV head.
struct RowTile {
  Place place;  ///< its unit: tile * splits + split
  Tiling tiling;
  int32_t first_row;  ///< of the request's
  int32_t rows;
  KeyRange keys;  ///< that at least one of the rows may see; begin <= end
  int32_t first_split;
  int32_t end_split;

  __device__ bool is_split() const { return end_split - first_split > 1; }
  /// Those of the split, one of [first_split, end_split); all where the tile is not split.
  __device__ KeyRange keys_of_split(int32_t split) const {
    if (!is_split()) return keys;
    const int32_t begin = split * tiling.split;
    const bool last = keys.end - begin <= tiling.split;
    return {max(keys.begin, begin), last ? keys.end : begin + tiling.split};
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
template <int Rows, int Keys>
__device__ RowTile row_tile(const TiledParams& p, const Place& place) {
  RowTile tile{place, tiling_of<Rows, Keys>(p, place.q_len, place.kv_len), 0, 0, {0, 0}, 0, 0};
  const int32_t index = tile.tiling.tiles - 1 - place.unit / tile.tiling.splits;
  tile.first_row = index * Rows;
  tile.rows = min(Rows, tile.tiling.rows - tile.first_row);
  tile.keys = keys_of_rows(p, place, tile.first_row, tile.first_row + tile.rows - 1);
  tile.first_split = 0;
  tile.end_split = 1;
  if (tile.tiling.splits > 1) {
    tile.first_split = tile.keys.begin / tile.tiling.split;
    tile.end_split = ceil_div(tile.keys.end, tile.tiling.split);
  }
  return tile;
}

/// The partial results of the requests before this one. All lanes of a warp call it.
template <int Rows, int Keys>
__device__ int64_t partials_before(const TiledParams& p, int32_t request) {
  return sum_of_requests(p.attention, request, [&](int32_t q_len, int32_t kv_len) {
    return tiling_of<Rows, Keys>(p, q_len, kv_len).partials();
  });
}

}  // namespace octavo::cuda
