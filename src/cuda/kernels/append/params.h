// What the kernel that stores new keys and values reads. The host knows which pages they go to, so
// the parameters carry that, and nothing has to be copied to the device first.
#pragma once

#include "common/params.h"

namespace octavo::cuda {

/// New K or new V, and the pool it goes to. Strides count elements.
struct AppendSide {
  const void* source;  ///< [rows, heads, d]
  int64_t source_row_stride;
  int64_t source_head_stride;
  void* target;  ///< [pages, page_size, heads, d]
  int64_t page_stride;
  int64_t slot_stride;
  int64_t head_stride;
  ScaleParam scale;
  int32_t source_type;  ///< a number of octavo::DType, as target_type
  int32_t target_type;
  int32_t d;
  int32_t copied_bytes;  ///< of an element, if elements are stored as they come; else 0
};

/// Tokens of a request that lie in one page.
struct Stretch {
  int64_t row;  ///< of the first in new K and V
  int32_t page;
  int32_t slot;      ///< of the first
  int32_t position;  ///< of the first, where there are no positions
  int32_t count;
};

inline constexpr int kAppendWarps = 8;
inline constexpr int kStretchTokens = 16;  ///< most in a stretch
inline constexpr int kStretches = 144;     ///< most in a launch: parameters have room for 4 KB

struct AppendParams {
  AppendSide k;
  AppendSide v;
  int32_t heads;
  int32_t rotary;           ///< dims of K that are turned; 0: none
  int32_t halves;           ///< 1: c and c + rotary / 2 are turned together; 0: c and c + 1
  const float* rope_table;  ///< [positions, rotary]: cosines, then sines
  int64_t rope_stride;
  const int32_t* positions;  ///< [rows]; null: each token's place in its request
  Stretch stretches[kStretches];
};
static_assert(sizeof(AppendParams) <= 4096);

}  // namespace octavo::cuda
