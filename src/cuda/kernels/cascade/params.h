// What the kernel that takes a batch apart at a shared prefix reads and writes.
#pragma once

#include "common/params.h"

namespace octavo::cuda {

struct CascadeParams {
  const int32_t* q_lens;   ///< [requests]
  const int32_t* kv_lens;  ///< [requests]
  const int32_t* page_table;
  int64_t page_table_stride;
  int32_t requests;
  int32_t prefix;         ///< tokens
  int32_t prefix_pages;   ///< that hold them
  int32_t* rows;          ///< [1]: query tokens of all requests
  int32_t* prefix_len;    ///< [1]
  int32_t* suffix_lens;   ///< [requests]: tokens after the prefix
  int32_t* prefix_table;  ///< [prefix_pages]: of the first request that has queries
};

}  // namespace octavo::cuda
