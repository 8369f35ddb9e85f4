// Merges the partial results of tiles of rows that are split.
#include "ptx/grid.h"
#include "tiled/merge.h"

namespace octavo::cuda {
namespace {

constexpr int kRows = OCTAVO_ROWS;
constexpr int kKeys = OCTAVO_KEYS;

using Shared = MergeSpace<kMergeParts, kMergeThreads>;
static_assert(sizeof(Shared) == kMergeBytes);

}  // namespace

/// Grid: tiles of rows that may be split, KV heads, thread blocks that share the rows of a tile. A
/// warp merges one after another.
extern "C" __global__ void __launch_bounds__(kMergeThreads)
    octavo_merge_splits(const __grid_constant__ TiledParams p) {
  extern __shared__ __align__(16) unsigned char memory[];
  Shared& shared = *reinterpret_cast<Shared*>(memory);
  let_next_grid_begin();
  Unit unit = find_unit<kRows, kKeys>(
      p, longest_item<kRows, kKeys>(p), static_cast<int32_t>(blockIdx.x),
      [](const Tiling& tiling) { return tiling.items > 1 ? tiling.tiles : 0; });
  RowTile tile{};
  if (unit.place.request >= 0) {
    unit.place.unit *= unit.tiling.items;
    tile = row_tile<kRows>(p, unit);
  }
  wait_for_grids_before();  // nothing to do or not: who waits for this grid waits for those too
  if (!tile.is_split()) return;
  constexpr int kWarps = kMergeThreads / kWarp;
  const int first = static_cast<int>(blockIdx.z) * kWarps + static_cast<int>(threadIdx.x) / kWarp;
  for (int row = first; row < tile.rows; row += p.merge_blocks * kWarps) {
    merge_row(p, tile, static_cast<int32_t>(blockIdx.y), row, shared);
  }
}

}  // namespace octavo::cuda
