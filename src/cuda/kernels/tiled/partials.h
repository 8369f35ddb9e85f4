// Results of splits of the keys in the workspace, until they are merged in the order of the splits.
//
// A partial result is of a tile of rows, a KV head and a split:
//   sums [partial_rows, pitch] | (reference, sum) [partial_rows] | to a multiple of 128 bytes
// where sums / sum is the weighted mean of V and `reference` the logit, in units of log2, whose
// exponential is the unit of both.
#pragma once

#include "ptx/math.h"
#include "tiled/work.h"

namespace octavo::cuda {

struct RowState {
  float reference;  ///< -infinity: the row saw no key
  float sum;
};

/// What a row has of some keys, and then of more, added up. Every kernel that does so has the same
/// bits.
struct RowSum {
  RowState state;

  __device__ RowSum(const RowState& first, const RowState& second) {
    const float reference = fmaxf(first.reference, second.reference);
    const float base = reference == -infinity() ? 0.0f : reference;
    first_factor_ = exp2_fast(first.reference - base);
    second_factor_ = exp2_fast(second.reference - base);
    state = {reference, of(first.sum, second.sum)};
  }
  /// Of a column of V.
  __device__ float of(float first, float second) const {
    return fmaf(second, second_factor_, first * first_factor_);
  }

 private:
  float first_factor_;
  float second_factor_;
};

struct Partial {
  float* sums;
  RowState* states;
  int32_t pitch;        ///< floats: dv, rounded up to a multiple of 32
  int32_t unit_floats;  ///< from a unit's to the next unit's
};

__device__ inline Partial partial_at(const TiledParams& p, int64_t index, int32_t kv_head) {
  const int32_t pitch = (p.attention.dv + 31) / 32 * 32;
  const int32_t size = p.partial_rows * pitch + (2 * p.partial_rows + 31) / 32 * 32;
  float* begin =
      static_cast<float*>(p.attention.workspace) + (index * p.attention.hkv + kv_head) * size;
  return {begin, reinterpret_cast<RowState*>(begin + p.partial_rows * pitch), pitch,
          size * p.attention.hkv};
}

}  // namespace octavo::cuda
