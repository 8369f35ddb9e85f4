// Which keys rows see, for whole tiles of keys.
#pragma once

#include "tiled/config.h"
#include "tiled/work.h"

namespace octavo::cuda {

__device__ inline bool masks_by_bits(const TiledParams& p) {
  return kCapAlibiOrBits && p.attention.masking == Masking::bits;
}

/// The tiles of keys that some, and all, of a number of rows see.
struct SeenKeys {
  KeyRange some;
  KeyRange all;

  SeenKeys() = default;
  /// Of `count` rows from `first` on in the tile of rows.
  __device__ SeenKeys(const TiledParams& p, const RowTile& tile, int first, int count)
      : some{0, 0}, all{0, 0} {
    const int last = min(first + count, tile.rows) - 1;
    if (first > last) return;
    if constexpr (!kMasked) {
      some = all = tile.keys;
      return;
    }
    const Place& place = tile.place;
    const int32_t first_at = place.position(divide(tile.first_row + first, p.group).quotient);
    const int32_t last_at = place.position(divide(tile.first_row + last, p.group).quotient);
    const KeyRange of_first = visible_keys(p.attention, first_at, place.kv_len);
    const KeyRange of_last = visible_keys(p.attention, last_at, place.kv_len);
    some = {of_first.begin, of_last.end};
    all = {of_last.begin, of_first.end};
    if (masks_by_bits(p)) all = {0, 0};
  }
  /// Of the tile that begins at `first`.
  __device__ bool sees_some(int32_t first) const {
    return first < some.end && some.begin - first < kKeys;
  }
  __device__ bool sees_all(int32_t first) const {
    return first >= all.begin && all.end - first >= kKeys;
  }
};

}  // namespace octavo::cuda
