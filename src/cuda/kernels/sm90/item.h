// What a thread block does next, kept in shared memory to save registers.
#pragma once

#include "tiled/rows.h"
#include "tiled/seen.h"

namespace octavo::cuda {

/// What an item is made from.
struct Task {
  RowTile tile;
  int32_t kv_head;
  KeyRange keys;  ///< of the item
};

inline constexpr int kRowsOfGroup = 64;  // that are multiplied together
inline constexpr int kRowGroups = (kRows + kRowsOfGroup - 1) / kRowsOfGroup;

/// Tiles of keys.
struct GroupTiles {
  KeyRange some;   ///< that some of a group's rows see
  KeyRange plain;  ///< whose keys all of them see
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
  int32_t origin;  ///< key of tile 0
  GroupTiles groups[kRowGroups];
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
    const int32_t first_key = task.keys.begin / kKeys * kKeys;
    const int32_t tiles =
        task.keys.end > task.keys.begin ? ceil_div(task.keys.end - first_key, kKeys) : 0;
    if (thread < kRowGroups) {
      const SeenKeys seen(p, task.tile, thread * kRowsOfGroup, kRowsOfGroup);
      groups[thread] = tiles_of(seen, first_key, first_tile, tiles);
    }
    if (thread != 0) return;
    exists = true;
    careful = with_care;
    again = false;
    keys = task.keys;
    begin = first_tile;
    end = begin + tiles;
    origin = first_key - begin * kKeys;
    const int32_t split = task.tile.tiling.split;
    split_end = begin + (split - first_key % split) / kKeys;
    split_tiles = split / kKeys;
  }

 private:
  /// Of `tiles` tiles from number `first_tile` on, which begins with `first_key`.
  __device__ static GroupTiles tiles_of(const SeenKeys& seen, int32_t first_key, int32_t first_tile,
                                        int32_t tiles) {
    const auto before = [&](int32_t key) { return max(key - first_key, 0); };
    GroupTiles of{{first_tile, first_tile}, {0, 0}};
    if (seen.some.end > seen.some.begin) {
      of.some = {first_tile + min(before(seen.some.begin) / kKeys, tiles),
                 first_tile + min(ceil_div(before(seen.some.end), kKeys), tiles)};
    }
    if (seen.all.end - seen.all.begin >= kKeys) {
      of.plain = {first_tile + ceil_div(before(seen.all.begin), kKeys),
                  first_tile + before(seen.all.end) / kKeys};
    }
    return of;
  }
};

}  // namespace octavo::cuda
