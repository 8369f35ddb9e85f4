// What kernels that work by tiles of rows and keys read beside the attention's own parameters.
#pragma once

#include "common/params.h"

namespace octavo::cuda {

/// Division of numbers below 2^31 by a divisor that is known at launch: the high half of a product,
/// shifted. See `divisor` in tiled.cpp.
struct Divisor {
  int32_t value;
  unsigned magic;  ///< 0: the divisor is 1
  int32_t shift;
};

inline constexpr int32_t kGroupKeys = 4096;  // of a group of splits, at most, unless it is one

// Of the launch that merges partial results: threads, each with four columns of a row, and results
// at a time.
inline constexpr int kMergeThreads = 128;
inline constexpr int kMergeParts = 16;
inline constexpr int kMergeBytes =
    kMergeParts * (kMergeThreads * 16 + kMergeThreads / 32 * 8);  // of shared memory

struct TiledParams {
  AttentionParams attention;
  int32_t q_type;  ///< a number of octavo::DType, as out_type
  int32_t out_type;
  Divisor group;
  Divisor page;

  // A launch takes the requests of fewest_rows to most_rows rows (query tokens times the group).
  int32_t fewest_rows;
  int32_t most_rows;

  // The keys of a request are cut into splits, for as many thread blocks as a lone request should
  // have, unless the splits got shorter than shortest_split. With a split in `attention`, that.
  int32_t blocks_of_request;
  int32_t shortest_split;  ///< tokens; 0: no splits
  int32_t short_request;   ///< tokens: up to so many, splits may be half as short
  int32_t heads_first;     ///< of a grid: KV heads vary faster than units
  int32_t merge_blocks;    ///< thread blocks that share the rows of a tile that is merged
  int32_t partial_rows;    ///< that a tile of any request may have

  /// [requests, hkv], 0 before: how many partial results of the one tile of a request are there.
  /// The last to come merges them. Null: that is for another launch.
  unsigned* arrived;

  // Of a launch whose thread blocks take one unit and KV head after another.
  int32_t item_blocks;     ///< among which groups of splits may be items; 0: splits are
  int32_t heads_together;  ///< KV heads whose units come before those of others; divides hkv
  unsigned* taken;         ///< beyond one for each block; null: each has a share
  int32_t one_each;        ///< no block has more than one

  // Whether addresses and strides are multiples of 16 bytes.
  int32_t q_whole;  ///< and the type is the one that is multiplied
  int32_t out_whole;
};

}  // namespace octavo::cuda
