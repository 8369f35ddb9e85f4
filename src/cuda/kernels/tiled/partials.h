// Results of splits of the keys in the workspace, until they are merged in the order of the splits.
//
// A partial result is of a tile of rows, a KV head and a split:
//   sums [rows of a tile, pitch] | (reference, sum) [rows of a tile]
// where sums / sum is the weighted mean of V and `reference` the logit, in units of log2, whose
// exponential is the unit of both.
#pragma once

#include "tiled/work.h"

namespace octavo::cuda {

struct RowState {
  float reference;  ///< -infinity: the row saw no key
  float sum;
};

struct Partial {
  float* sums;
  RowState* states;
  int32_t pitch;  ///< floats: dv, rounded up to a multiple of 32
};

template <int Rows>
__device__ Partial partial_at(const TiledParams& p, int64_t index, int32_t kv_head) {
  const int32_t pitch = (p.attention.dv + 31) / 32 * 32;
  float* begin = static_cast<float*>(p.attention.workspace) +
                 (index * p.attention.hkv + kv_head) * Rows * (pitch + 2);
  return {begin, reinterpret_cast<RowState*>(begin + Rows * pitch), pitch};
}

}  // namespace octavo::cuda
