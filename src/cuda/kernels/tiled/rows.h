// What a thread block knows of its rows, in shared memory.
#pragma once

#include "tiled/logit_scale.h"
#include "tiled/work.h"

namespace octavo::cuda {

struct Rows {
  KeyRange keys[kRows];  ///< that each row sees
  RowTile tile;
  int32_t kv_head;
  LogitScale logit;
};

/// By `threads` threads, of which this is number `thread`: the keys that each row of a tile sees.
__device__ inline void describe_keys(const TiledParams& p, const RowTile& tile, int thread,
                                     int threads, Rows& rows) {
  for (int row = thread; row < kRows; row += threads) {
    const int32_t token = divide(tile.first_row + row, p.group).quotient;
    rows.keys[row] = row < tile.rows
                         ? visible_keys(p.attention, tile.place.position(token), tile.place.kv_len)
                         : KeyRange{0, 0};
  }
}

/// The same, and all else.
__device__ inline void describe_rows(const TiledParams& p, const RowTile& tile, int32_t kv_head,
                                     const LogitScale& logit, int thread, int threads, Rows& rows) {
  describe_keys(p, tile, thread, threads, rows);
  if (thread == 0) {
    rows.tile = tile;
    rows.kv_head = kv_head;
    rows.logit = logit;
  }
}

}  // namespace octavo::cuda
