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
  int32_t heads_first;     ///< of a grid: KV heads vary faster than units
  int32_t merge_blocks;    ///< thread blocks that share the rows of a tile that is merged

  // Of a launch whose thread blocks take one unit and KV head after another.
  int32_t heads_together;  ///< KV heads whose units come before those of others; divides hkv
  unsigned* taken;         ///< beyond one for each block; null: each takes every gridDim.x-th

  // Whether addresses and strides are multiples of 16 bytes.
  int32_t q_whole;  ///< and the type is the one that is multiplied
  int32_t out_whole;
};

}  // namespace octavo::cuda
