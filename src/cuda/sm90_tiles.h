#pragma once

#include <algorithm>
#include <cstdint>

#include "cuda/tiled.h"

// The tile shapes of cuda_sm90: used by its selection, its variants and its launches alike.
namespace octavo::cuda {

/// The sources in kernels/sm90, by what requests they take.
enum class Sm90Source {
  many_rows,   ///< attend.cu
  few_rows,    ///< few.cu
  short_ones,  ///< short.cu: all of a batch in which none has many keys
};

/// What a thread block computes at a time, and how far ahead it loads.
struct Sm90Tile {
  Sm90Source source = Sm90Source::many_rows;
  TileShape shape;
  int threads = 0;
  int blocks = 0;  ///< of a multiprocessor
  int stages = 0;  ///< tiles of K and of V in shared memory
  int groups = 1;  ///< warpgroups that have tiles of rows of their own
  int shared_bytes = 0;
};

inline constexpr std::int64_t kSm90Widest = 256;

/// Rounded up to widths that there are instructions for.
constexpr HeadDims sm90_dims(const Problem& p) {
  const auto round_up = [](std::int64_t dim) {
    for (const int width : {64, 96, 128, 192}) {
      if (dim <= width) return width;
    }
    return static_cast<int>(kSm90Widest);
  };
  return {round_up(p.d), round_up(p.dv)};
}

/// Slabs of 128 bytes of a row.
constexpr int slabs_of(int bytes) { return (bytes + 127) / 128; }

/// Bytes of shared memory of a tile of K and one of V, of elements of so many bytes.
constexpr int sm90_stage_bytes(int keys, const HeadDims& dims, int kv_bytes) {
  return keys * (slabs_of(dims.d * kv_bytes) + slabs_of(dims.dv * kv_bytes)) * 128;
}

inline constexpr int kSm90Rows = 192;    ///< of a tile, at most
inline constexpr int kSm90FewRows = 16;  ///< which wgmma would waste three quarters of its work on
inline constexpr int kRowsOfWarpgroup = 64;

/// Whether a warpgroup's rows are whole query tokens, which boxes of Q can bring.
constexpr bool has_whole_groups(std::int64_t group) { return kRowsOfWarpgroup % group == 0; }

inline constexpr int kSm90Reserved = 1024;  ///< bytes of shared memory, of each thread block

/// As many stages as fit, 2 or more, beside `others` bytes.
constexpr void take_stages(Sm90Tile& tile, int stage, int others, int limit) {
  while (tile.stages > 2 && tile.stages * stage + others > limit) --tile.stages;
  tile.shared_bytes = tile.stages * stage + others;
}

/// Of kernels/sm90/attend.cu: of 64 rows, or of as many as registers have room for. A warp's O and
/// S take (dv + keys) / 2 registers of each of its lanes, of 160 with three warpgroups and of 232
/// with two.
constexpr Sm90Tile sm90_many_rows(int rows, const HeadDims& dims, int shared_limit) {
  constexpr int kLoaders = 128;     // threads
  constexpr int kRowBytes = 2 * 8;  // which keys a row of either item sees
  const int widest = std::max(dims.d, dims.dv);
  Sm90Tile tile{Sm90Source::many_rows, {kSm90Rows, 12, 80}, 0, 1, 4};
  if (widest == 64) tile.shape.keys = 128;
  if (widest > 128) tile.shape = {128, 8, 80};
  if (rows <= 64) tile = {Sm90Source::many_rows, {64, 4, 64}, 0, 2, 2};
  tile.threads = tile.shape.warps * 32 + kLoaders;
  const int items = tile.shape.warps == 12 ? 2048 : 1024;  // what else is known, and barriers
  take_stages(tile, sm90_stage_bytes(tile.shape.keys, dims, 2),
              tile.shape.rows * (slabs_of(dims.d * 2) * 128 + kRowBytes) + items, shared_limit);
  if (2 * (tile.shared_bytes + kSm90Reserved) > shared_limit + kSm90Reserved) tile.blocks = 1;
  return tile;
}

/// Of kernels/sm90/few.cu. Q takes d / 4 registers of each lane, O dv / 2 and dv / 8 again.
constexpr Sm90Tile sm90_few_rows(const HeadDims& dims, int kv_bytes, int shared_limit) {
  constexpr int kItemBytes = 2048;  // what is known of two items, and barriers
  const int widest = std::max(dims.d, dims.dv);
  const int keys = widest == 64 ? 128 : 64;
  Sm90Tile tile{Sm90Source::few_rows, {kSm90FewRows, 1, keys, 4}, 256, widest > 128 ? 1 : 2, 6};
  const int sums = kSm90FewRows * (dims.dv + 8 * 4) * 4;
  const int queries = kSm90FewRows * dims.d * 2;
  take_stages(tile, sm90_stage_bytes(keys, dims, kv_bytes), sums + queries + kItemBytes,
              (shared_limit + kSm90Reserved) / tile.blocks - kSm90Reserved);
  return tile;
}

/// Keys of a request up to which kernels/sm90/short.cu is faster than the others.
constexpr std::int64_t sm90_short_keys(const HeadDims& dims) {
  return std::max(dims.d, dims.dv) <= 128 ? 256 : 128;
}

/// Of kernels/sm90/short.cu, for requests of up to so many keys, which are its stages' tiles, and
/// thread blocks that take so many tiles of rows. No rows: there is no such tile.
constexpr Sm90Tile sm90_short_requests(std::int64_t keys, int row_tiles, const HeadDims& dims,
                                       int shared_limit) {
  if (keys > sm90_short_keys(dims)) return {};
  const int widest = std::max(dims.d, dims.dv);
  Sm90Tile tile{Sm90Source::short_ones, {64, 4, 64}, 0, 0, 1};
  while (tile.stages * tile.shape.keys < keys) tile.stages *= 2;
  // Where one block's keys leave no room for those of others, its warpgroups do.
  if (row_tiles > 1) tile.groups = widest == 64 ? (tile.stages + 1) / 2 : tile.stages;
  if (row_tiles > 1 && (tile.groups == 1 || row_tiles < tile.groups)) return {};
  tile.threads = tile.groups * 128;
  const int known = 768 + tile.groups * (row_tiles > tile.groups ? 1536 : 768);
  tile.shared_bytes = tile.stages * sm90_stage_bytes(tile.shape.keys, dims, 2) +
                      tile.groups * tile.shape.rows * slabs_of(dims.d * 2) * 128 + known;
  if (tile.shared_bytes > shared_limit) return {};
  // A warp's S and O take (keys + dv) / 2 registers of each of its lanes, one after the other where
  // a tile has all keys.
  int together = widest <= 128 ? 4 : widest <= 192 ? 3 : 2;  // warpgroups of a multiprocessor
  if (widest == 64 && tile.groups == 1) together = tile.stages == 1 ? 6 : 5;
  tile.blocks = std::min(together / tile.groups,
                         (shared_limit + kSm90Reserved) / (tile.shared_bytes + kSm90Reserved));
  return tile;
}

/// `kv_bytes`: of an element of K and V; with 1, of few rows alone.
constexpr Sm90Tile sm90_tile(int rows, const HeadDims& dims, int kv_bytes, int shared_limit) {
  return rows == kSm90FewRows ? sm90_few_rows(dims, kv_bytes, shared_limit)
                              : sm90_many_rows(rows, dims, shared_limit);
}

}  // namespace octavo::cuda
