// The end of a row: the sink's share, the denominator, the scales, LSE.
#pragma once

#include "common/elements.h"
#include "common/logits.h"
#include "ptx/math.h"
#include "tiled/partials.h"

namespace octavo::cuda {

/// Query token and head of a row.
struct RowHead {
  int64_t token;  ///< of the whole batch
  int32_t head;

  __device__ RowHead(const TiledParams& p, const RowTile& tile, int32_t kv_head, int row) {
    const Quotient at = divide(tile.first_row + row, p.group);
    token = int64_t{tile.place.q_begin} + at.quotient;
    head = kv_head * p.group.value + at.remainder;
  }
  __device__ int64_t out_offset(const AttentionParams& p) const {
    return token * p.out_token_stride + head * p.out_head_stride;
  }
};

/// What the row's sums are multiplied by: the sink joins the denominator, and a row without keys is
/// 0. Stores LSE if `write_lse`.
__device__ inline float finish_row(const AttentionParams& p, const RowHead& row, RowState state,
                                   float factor, bool write_lse) {
  constexpr float kLog2E = 1.4426950408889634f;
  constexpr float kLn2 = 0.6931471805599453f;
  const bool sees_keys = state.reference != -infinity();
  if (p.sinks != nullptr) {
    const float sink = p.sinks[row.head] * kLog2E;
    const float reference = fmaxf(state.reference, sink);
    if (reference != -infinity()) {
      const float rescale = exp2_fast(state.reference - reference);
      state = {reference, state.sum * rescale + exp2_fast(sink - reference)};
      factor *= rescale;
    }
  }
  if (write_lse && p.lse != nullptr) {
    const float lse =
        state.reference == -infinity() ? -infinity() : (state.reference + log2f(state.sum)) * kLn2;
    p.lse[row.token * p.lse_token_stride + row.head * p.lse_head_stride] = lse;
  }
  return sees_keys ? factor / state.sum : 0.0f;
}

}  // namespace octavo::cuda
