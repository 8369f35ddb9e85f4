// What a thread block knows of its rows, in shared memory.
#pragma once

#include "tiled/logit_scale.h"
#include "tiled/seen.h"

namespace octavo::cuda {

struct Rows {
  KeyRange keys[kRows];  ///< that each row sees
  int32_t positions[kRows];
  float slopes[kRows];  ///< of ALiBi, times log2(e)
  RowTile tile;
  SeenKeys seen[kWarps];  ///< by the rows of each warp
  LogitScale logit;
};

/// By `threads` threads, of which this is number `thread`.
__device__ inline void describe_rows(const TiledParams& p, const RowTile& tile, int32_t kv_head,
                                     const LogitScale& logit, int thread, int threads, Rows& rows) {
  const AttentionParams& a = p.attention;
  for (int row = thread; row < kRows; row += threads) {
    const Quotient at = divide(tile.first_row + min(row, tile.rows - 1), p.group);
    const int32_t position = tile.place.position(at.quotient);
    const KeyRange keys = visible_keys(a, position, tile.place.kv_len);
    rows.keys[row] = row < tile.rows ? keys : KeyRange{0, 0};
    rows.positions[row] = position;
    rows.slopes[row] = slope_of(a, kv_head * p.group.value + at.remainder) * kLog2E;
  }
  if (thread < kWarps) rows.seen[thread] = SeenKeys(p, tile, thread * kRowsOfWarp, kRowsOfWarp);
  if (thread == 0) {
    rows.tile = tile;
    rows.logit = logit;
  }
}

}  // namespace octavo::cuda
