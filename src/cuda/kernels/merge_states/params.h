// What the kernel that merges results over parts of the keys reads. Strides count elements.
#pragma once

#include "common/params.h"

namespace octavo::cuda {

inline constexpr int kMergeWarps = 8;

struct MergeStatesParams {
  const void* parts;  ///< [parts_count, rows, heads, dv]
  int64_t part_stride;
  int64_t row_stride;
  int64_t head_stride;
  const float* parts_lse;  ///< [parts_count, rows, heads]
  int64_t part_lse_stride;
  int64_t row_lse_stride;
  int64_t head_lse_stride;
  void* out;  ///< [rows, heads, dv]
  int64_t out_row_stride;
  int64_t out_head_stride;
  float* lse;  ///< [rows, heads]; null: not wanted
  int64_t lse_row_stride;
  int64_t lse_head_stride;
  const int32_t* row_count;  ///< null, or how many of `rows` there are
  int64_t parts_count;
  int64_t rows;
  int64_t dv;
  int32_t heads;
  int32_t part_type;  ///< a number of octavo::DType, as out_type
  int32_t out_type;
};

}  // namespace octavo::cuda
