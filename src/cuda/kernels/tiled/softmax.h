// The softmax as keys come in, a tile at a time. Logits are in units of log2.
#pragma once

#include "ptx/math.h"
#include "tiled/mask.h"
#include "tiled/partials.h"

namespace octavo::cuda {

/// Of the rows of this lane's fragments: row l / 4 of each block, and 8 rows further.
struct RowStates {
  RowState of[kBlocks][2];
};

/// Of the same rows, and this lane's keys.
struct Softmax {
  float reference[kBlocks][2];  ///< near the largest logit so far; -infinity: none
  float sum[kBlocks][2];        ///< of exp2(logit - reference)

  __device__ Softmax() {
#pragma unroll
    for (int b = 0; b < kBlocks; ++b) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        reference[b][half] = -infinity();
        sum[b][half] = 0;
      }
    }
  }

  /// With the sums over a row's four lanes.
  __device__ RowStates rows() const {
    RowStates states;
#pragma unroll
    for (int b = 0; b < kBlocks; ++b) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float all = sum[b][half];
        all += __shfl_xor_sync(kAllLanes, all, 1);
        all += __shfl_xor_sync(kAllLanes, all, 2);
        states.of[b][half] = {reference[b][half], all};
      }
    }
    return states;
  }
};

/// What is subtracted from logits: a row that saw nothing yet has weights of 0, not NaN.
__device__ inline float base_of(float reference) {
  constexpr bool kMaySeeNone = kMasked || kKeyWarps > 1;
  return kMaySeeNone && reference == -infinity() ? 0.0f : reference;
}

/// Of either row's keys that this lane has.
struct LaneMaxima {
  float row[2];

  __device__ explicit LaneMaxima(const float (&scores)[kKeyTiles][4]) {
    float largest[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) largest[i] = scores[0][i];
#pragma unroll
    for (int n = 1; n < kKeyTiles; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) largest[i] = fmaxf(largest[i], scores[n][i]);
    }
    row[0] = fmaxf(largest[0], largest[1]);
    row[1] = fmaxf(largest[2], largest[3]);
  }
};

/// Over a row's four lanes.
__device__ inline float row_maximum(float largest) {
  largest = fmaxf(largest, __shfl_xor_sync(kAllLanes, largest, 1));
  return fmaxf(largest, __shfl_xor_sync(kAllLanes, largest, 2));
}

/// How far, in units of log2, logits may exceed the one that weights are relative to before it
/// changes: weights up to 256 are as exact, and the sums need not be scaled with every new maximum.
inline constexpr float kSlack = 8;

/// Moves the softmax's reference to where the tile's scores want it, and says what becomes of sums
/// so far: they are to be multiplied by `factor`, if `needed`.
struct Rescale {
  float factor[kBlocks][2];
  bool needed;  ///< for a row of the warp

  __device__ Rescale(const Scores& scores, float scale, Softmax& softmax) {
    float largest[kBlocks][2];
    bool moves = false;
#pragma unroll
    for (int b = 0; b < kBlocks; ++b) {
      const LaneMaxima maxima(scores[b]);
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        largest[b][half] = maxima.row[half];
        moves = moves || maxima.row[half] * scale > softmax.reference[b][half] + kSlack;
        factor[b][half] = 1;
      }
    }
    needed = __any_sync(kAllLanes, moves);
    if (!needed) return;
#pragma unroll
    for (int r = 0; r < 2 * kBlocks; ++r) {
      float& reference = softmax.reference[r / 2][r % 2];
      const float before = reference;
      const float wanted = row_maximum(largest[r / 2][r % 2]) * scale;
      reference = wanted > before + kSlack ? wanted : before;
      factor[r / 2][r % 2] = exp2_fast(before - base_of(reference));
      softmax.sum[r / 2][r % 2] *= factor[r / 2][r % 2];
    }
  }

  __device__ void apply(Sums& sums) const {
#pragma unroll
    for (int b = 0; b < kBlocks; ++b) {
#pragma unroll
      for (int n = 0; n < kValueTiles; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) sums[b][n][i] *= factor[b][i / 2];
      }
    }
  }
};

/// From scores to weights, and into their sums: four of a lane's.
__device__ inline void exponentiate(float (&scores)[4], float scale, const float (&reference)[2],
                                    float (&sum)[2]) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    scores[i] = exp2_fast(fmaf(scores[i], scale, -base_of(reference[i / 2])));
    sum[i / 2] += scores[i];
  }
}

/// The weights as A of the second product.
__device__ inline void pack_weights(const Scores& scores, Weights& weights) {
#pragma unroll
  for (int b = 0; b < kBlocks; ++b) {
#pragma unroll
    for (int step = 0; step < kWarpKeys / 16; ++step) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float(&pair)[4] = scores[b][2 * step + i / 2];
        weights[b][step][i] = pack<kHalf>(pair[i % 2 * 2], pair[i % 2 * 2 + 1]);
      }
    }
  }
}

/// Turns the scores of a tile into weights. Says what becomes of sums so far.
__device__ inline Rescale weigh(Scores& scores, float scale, Softmax& softmax) {
  const Rescale rescale(scores, scale, softmax);
#pragma unroll
  for (int b = 0; b < kBlocks; ++b) {
#pragma unroll
    for (int n = 0; n < kKeyTiles; ++n) {
      exponentiate(scores[b][n], scale, softmax.reference[b], softmax.sum[b]);
    }
  }
  return rescale;
}

/// The same, and makes the sums so far sums of such weights.
__device__ inline void soften(Scores& scores, float scale, Softmax& softmax, Sums& sums) {
  const Rescale rescale = weigh(scores, scale, softmax);
  if (rescale.needed) rescale.apply(sums);
}

}  // namespace octavo::cuda
