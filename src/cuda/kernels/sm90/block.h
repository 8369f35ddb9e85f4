// What a thread block does, kept in shared memory to save registers.
#pragma once

#include "tiled/rows.h"

namespace octavo::cuda {

/// A tile of rows of one request and KV head, and tiles of its keys in order.
struct Block {
  int32_t kv_head;
  KeyRange keys;  ///< that are read
  int32_t first;  ///< key of the first tile
  int32_t count;  ///< of tiles
  KeyRange seen_by_all;

  Block() = default;
  __device__ Block(const TiledParams& p, const RowTile& tile, int32_t head, KeyRange range)
      : kv_head(head),
        keys(range),
        first(range.begin / kKeys * kKeys),
        count(range.end > range.begin ? ceil_div(range.end - first, kKeys) : 0),
        seen_by_all(SeenKeys(p, tile, 0, kRows).all) {}

  __device__ int32_t first_of(int32_t i) const { return first + i * kKeys; }
  /// Whether every row sees every key of tile i.
  __device__ bool is_plain(int32_t i) const {
    return first_of(i) >= seen_by_all.begin && seen_by_all.end - first_of(i) >= kKeys;
  }
};

}  // namespace octavo::cuda
