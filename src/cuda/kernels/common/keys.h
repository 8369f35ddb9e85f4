// Which keys a row sees, and where they lie.
#pragma once

#include "common/params.h"
#include "common/place.h"

namespace octavo::cuda {

/// Keys [begin, end); empty if begin >= end.
struct KeyRange {
  int32_t begin;
  int32_t end;
};

/// The keys that the mask leaves to the query at `position`. With bits: the keys that have a bit.
/// In 64 bits, because windows may be as wide as the largest length.
__device__ inline KeyRange visible_keys(const AttentionParams& p, int32_t position,
                                        int32_t kv_len) {
  const int64_t at = position;
  int64_t begin = 0;
  int64_t end = kv_len;
  if (p.masking == Masking::causal) end = at + 1;
  if (p.masking == Masking::window && p.left >= 0) begin = at - p.left;
  if (p.masking == Masking::window && p.right >= 0) end = at + p.right + 1;
  if (p.masking == Masking::chunked) {
    begin = position < 0 ? 0 : position / p.chunk * p.chunk;
    end = at + 1;
  }
  return {static_cast<int32_t>(max(begin, int64_t{0})),
          static_cast<int32_t>(max(min(end, int64_t{kv_len}), int64_t{0}))};
}

/// Whether the row of the mask has the key's bit.
__device__ inline bool mask_bit(const AttentionParams& p, int64_t row, int64_t key) {
  return (p.mask_bits[row * p.mask_row_bytes + key / 8] >> (key % 8)) & 1;
}

/// Where a token lies in K and V.
struct Slot {
  int64_t page;
  int64_t slot;

  /// Of the token's first element for a KV head.
  __device__ int64_t offset(const KvParam& kv, int32_t kv_head) const {
    return page * kv.page_stride + slot * kv.slot_stride + kv_head * kv.head_stride;
  }
};

__device__ inline Slot slot_of(const AttentionParams& p, const Place& place, int64_t key) {
  if (p.page_table == nullptr) return {0, place.kv_begin + key};
  const int32_t* pages = p.page_table + place.request * p.page_table_stride;
  return {pages[key / p.page_size], key % p.page_size};
}

}  // namespace octavo::cuda
