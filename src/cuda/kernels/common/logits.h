// From a dot product of q and k to the logit of a softmax.
#pragma once

#include "common/params.h"

namespace octavo::cuda {

/// The factor for a KV head.
__device__ inline float factor(const ScaleParam& scale, int32_t kv_head) {
  if (scale.values == nullptr) return scale.value;
  return scale.values[scale.per_head != 0 ? kv_head : 0];
}

/// What multiplies q . k before the cap.
__device__ inline float score_factor(const AttentionParams& p, int32_t kv_head) {
  return p.softmax_scale * factor(p.q_scale, kv_head) * factor(p.k_scale, kv_head);
}

/// What multiplies the weighted mean of the values.
__device__ inline float value_factor(const AttentionParams& p, int32_t kv_head) {
  return factor(p.v_scale, kv_head) * factor(p.out_scale, kv_head);
}

/// ALiBi's slope of a query head; 0 without ALiBi.
__device__ inline float slope_of(const AttentionParams& p, int32_t head) {
  return p.alibi_slopes == nullptr ? 0.0f : p.alibi_slopes[head];
}

/// The logit of a scaled score: capped, then with ALiBi. `distance`: key - position.
__device__ inline float logit(float score, float cap, float slope, int32_t distance) {
  if (cap != 0) score = cap * tanhf(score / cap);
  return score + slope * static_cast<float>(distance);
}

}  // namespace octavo::cuda
