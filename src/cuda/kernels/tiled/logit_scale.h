// The factors between q . k and the logits of the softmax.
#pragma once

#include "common/logits.h"
#include "ptx/math.h"
#include "tiled/config.h"

namespace octavo::cuda {

/// From q . k to a logit in units of log2: factors for a KV head.
struct LogitScale {
  float scale;      ///< what still multiplies the scores when they reach the softmax; above 0
  float cap;        ///< log2(e) times the cap; 0: none
  float cap_scale;  ///< cap * tanh(x * factor / cap) takes 2^(x * cap_scale)
  bool alibi;
  float alibi_scale;  ///< of scores, before ALiBi's term is added
  bool negative;      ///< the factor is below 0, so Q has to change its sign

  LogitScale() = default;
  __device__ LogitScale(const AttentionParams& p, int32_t kv_head) {
    const float factor = score_factor(p, kv_head);
    negative = factor < 0;
    alibi = p.alibi_slopes != nullptr;
    cap = p.cap * kLog2E;
    cap_scale = 2 * kLog2E * fabsf(factor) / p.cap;
    const bool capped = p.cap != 0;
    // Not 0: hidden keys' scores of -infinity would become NaN.
    const float scaled = fmaxf(fabsf(factor) * kLog2E, 0x1p-126f);
    alibi_scale = capped ? 1.0f : scaled;
    scale = capped || alibi ? 1.0f : scaled;
  }
};

}  // namespace octavo::cuda
