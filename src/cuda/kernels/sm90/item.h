// What a thread block does next, kept in shared memory to save registers.
#pragma once

#include "tiled/rows.h"

namespace octavo::cuda {

/// What an item is made from.
struct Task {
  RowTile tile;
  int32_t kv_head;
  KeyRange keys;  ///< of the item
};

/// A tile of rows of one request and KV head, and tiles of its keys in order. Those are numbered
/// through all items of a thread block, because they go through the same rings.
struct Item {
  bool exists;   ///< false: there is nothing left to do
  bool careful;  ///< done before, but not right: hidden keys have infinite or NaN values
  Rows rows;
  KeyRange keys;  ///< that are read
  int32_t begin;  ///< tiles of keys
  int32_t end;
  int32_t origin;       ///< key of tile 0
  KeyRange plain;       ///< tiles whose keys every row sees
  int32_t split_end;    ///< of the first split, in tiles of keys
  int32_t split_tiles;  ///< of every other, but the last may have fewer
  bool again;           ///< set by who did it: it is to be done with care

  __device__ int32_t first_of(int32_t tile) const { return origin + tile * kKeys; }

  __device__ Task task() const { return {rows.tile, rows.kv_head, keys}; }

  /// By `threads` threads, of which this is number `thread`.
  __device__ void describe(const TiledParams& p, const Task& task, int32_t first_tile,
                           bool with_care, int thread, int threads) {
    describe_rows(p, task.tile, task.kv_head, LogitScale(p.attention, task.kv_head), thread,
                  threads, rows);
    if (thread != 0) return;
    const int32_t first_key = task.keys.begin / kKeys * kKeys;
    exists = true;
    careful = with_care;
    again = false;
    keys = task.keys;
    begin = first_tile;
    end = begin + (keys.end > keys.begin ? ceil_div(keys.end - first_key, kKeys) : 0);
    origin = first_key - begin * kKeys;
    const int32_t split = task.tile.tiling.split;
    split_end = begin + (split - first_key % split) / kKeys;
    split_tiles = split / kKeys;
    const KeyRange seen = SeenKeys(p, task.tile, 0, kRows).all;
    plain = {0, 0};
    if (seen.end - seen.begin < kKeys) return;
    plain = {ceil_div(max(seen.begin - origin, 0), kKeys), max(seen.end - origin, 0) / kKeys};
  }
};

}  // namespace octavo::cuda
