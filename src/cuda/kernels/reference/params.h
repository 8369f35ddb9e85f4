// What the reference kernel reads: dtypes at run time, so that one build serves every problem.
#pragma once

#include "common/params.h"

namespace octavo::cuda {

struct ReferenceParams {
  AttentionParams attention;
  int32_t q_type;  ///< a number of octavo::DType, as kv_type and out_type
  int32_t kv_type;
  int32_t out_type;
};

inline constexpr int kReferenceWarps = 4;   ///< query heads of a row in a thread block
inline constexpr int kReferenceDim = 1024;  ///< the largest head dim

}  // namespace octavo::cuda
