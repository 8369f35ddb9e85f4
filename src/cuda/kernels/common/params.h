// What every kernel reads: one struct, passed by value, laid out alike by the host's and the
// device's compiler. Strides count elements.
#pragma once

#if defined(__CUDACC_RTC__)
using int32_t = int;
using int64_t = long long;
using uint8_t = unsigned char;
using uint64_t = unsigned long long;
#else
#include <cstdint>
#endif

namespace octavo::cuda {

enum class Masking : int32_t { none, causal, window, chunked, bits };

/// A factor: `value`, or values[0], or values[KV head].
struct ScaleParam {
  const float* values;  ///< null: the host's number
  float value;
  int32_t per_head;
};

/// K or V: element (page, slot, head, c) is data[page * page_stride + slot * slot_stride + head *
/// head_stride + c].
struct KvParam {
  const void* data;
  int64_t page_stride;
  int64_t slot_stride;
  int64_t head_stride;
};

struct AttentionParams {
  const void* q;  ///< [total_q, hq, d]
  int64_t q_token_stride;
  int64_t q_head_stride;
  KvParam k;
  KvParam v;
  void* out;  ///< [total_q, hq, dv]
  int64_t out_token_stride;
  int64_t out_head_stride;
  float* lse;  ///< [total_q, hq]; null: not wanted
  int64_t lse_token_stride;
  int64_t lse_head_stride;

  /// [requests, columns]; null: no pages, and the keys of a request follow those of the one before.
  const int32_t* page_table;
  int64_t page_table_stride;
  int32_t page_size;
  int32_t pages;  ///< of the pool

  int32_t requests;
  const int32_t* q_lens;   ///< [requests]
  const int32_t* kv_lens;  ///< [requests]

  int32_t hq;
  int32_t hkv;
  int32_t d;
  int32_t dv;

  Masking masking;
  int32_t left;   ///< window: -1 is unbounded
  int32_t right;  ///< window: -1 is unbounded
  int32_t chunk;
  const uint8_t* mask_bits;  ///< [total_q, row_bytes]
  int64_t mask_row_bytes;

  float softmax_scale;
  float cap;                  ///< 0: none
  const float* sinks;         ///< [hq]; null: none
  const float* alibi_slopes;  ///< [hq]; null: none
  ScaleParam q_scale;
  ScaleParam k_scale;
  ScaleParam v_scale;
  ScaleParam out_scale;

  void* workspace;
  int32_t split;  ///< tokens of a KV split
};

}  // namespace octavo::cuda
