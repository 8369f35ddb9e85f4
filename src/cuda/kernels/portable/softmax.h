// The softmax as keys come in, a tile at a time. Logits are in units of log2.
#pragma once

#include "portable/mask.h"
#include "portable/products.h"
#include "ptx/math.h"

namespace octavo::cuda {

/// Of the rows of this lane's fragments: row l / 4 of each block, and 8 rows further.
struct Softmax {
  float largest[kBlocks][2];  ///< logit of each row so far
  float sum[kBlocks][2];      ///< of exp2(logit - largest), this lane's keys only

  __device__ Softmax() {
#pragma unroll
    for (int b = 0; b < kBlocks; ++b) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        largest[b][half] = -infinity();
        sum[b][half] = 0;
      }
    }
  }

  /// The sum over a row's four lanes.
  __device__ float row_sum(int block, int half) const {
    float all = sum[block][half];
    all += __shfl_xor_sync(kAllLanes, all, 1);
    return all + __shfl_xor_sync(kAllLanes, all, 2);
  }
};

__device__ inline float row_maximum(const float (&scores)[kKeyTiles][4], int half) {
  float largest = fmaxf(scores[0][2 * half], scores[0][2 * half + 1]);
#pragma unroll
  for (int n = 1; n < kKeyTiles; ++n) {
    largest = fmaxf(largest, fmaxf(scores[n][2 * half], scores[n][2 * half + 1]));
  }
  largest = fmaxf(largest, __shfl_xor_sync(kAllLanes, largest, 1));
  return fmaxf(largest, __shfl_xor_sync(kAllLanes, largest, 2));
}

/// Turns the scores of a tile into weights, relative to the largest logit so far, and the sums so
/// far into sums of such weights.
__device__ inline void soften(Scores& scores, float scale, Softmax& softmax, Sums& sums,
                              Weights& weights) {
#pragma unroll
  for (int b = 0; b < kBlocks; ++b) {
    float rescale[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float before = softmax.largest[b][half];
      const float now = fmaxf(before, row_maximum(scores[b], half) * scale);
      // A row that saw nothing yet has weights of 0, not NaN.
      const float base = now == -infinity() ? 0.0f : now;
      rescale[half] = exp2_fast(before - base);
      softmax.largest[b][half] = now;
      float sum = softmax.sum[b][half] * rescale[half];
#pragma unroll
      for (int n = 0; n < kKeyTiles; ++n) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          float& score = scores[b][n][2 * half + i];
          score = exp2_fast(fmaf(score, scale, -base));
          sum += score;
        }
      }
      softmax.sum[b][half] = sum;
    }
    if (__any_sync(kAllLanes, rescale[0] != 1.0f || rescale[1] != 1.0f)) {
#pragma unroll
      for (int n = 0; n < kValueTiles; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) sums[b][n][i] *= rescale[i / 2];
      }
    }
#pragma unroll
    for (int step = 0; step < kKeys / 16; ++step) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float(&pair)[4] = scores[b][2 * step + i / 2];
        weights[b][step][i] = pack<kHalf>(pair[i % 2 * 2], pair[i % 2 * 2 + 1]);
      }
    }
  }
}

}  // namespace octavo::cuda
