// What the check of a run's lengths and page ids reads, and how it says what it found.
#pragma once

#include "common/params.h"

namespace octavo::cuda {

/// What may be wrong with a request.
enum class Fault : int32_t {
  none,
  q_len,      ///< out of its bounds
  kv_len,     ///< out of its bounds
  unequal,    ///< q_len and kv_len in the packed layout
  columns,    ///< the page table has too few for kv_len
  page,       ///< an id that the pool does not have
  mask_bits,  ///< a row of the mask has too few bytes for kv_len
  q_total,    ///< with this request more query tokens than there is room for
  kv_total,   ///< with this request more tokens than k and v have
  prefix,     ///< its queries begin in the prefix that all share
  shared,     ///< a page of that prefix is another one than the first request's
};

struct CheckParams {
  const int32_t* q_lens;   ///< [requests]
  const int32_t* kv_lens;  ///< [requests]
  int32_t requests;
  int32_t most_q_len;
  int32_t most_kv_len;
  int32_t packed;
  int32_t prefix;             ///< tokens
  const int32_t* page_table;  ///< [requests, columns]; null: no pages
  int64_t page_table_stride;
  int64_t columns;
  int32_t page_size;
  int64_t pages;
  int64_t mask_row_bytes;  ///< -1: the mask is not bits
  int64_t rows;            ///< that the query tokens may have
  int64_t tokens;          ///< that k and v have; without pages
  /// The first fault: finding(request, fault, column), or kNoFinding.
  unsigned long long* first;
};

#if defined(__CUDACC__)
#define OCTAVO_BOTH __host__ __device__
#else
#define OCTAVO_BOTH
#endif

inline constexpr unsigned long long kNoFinding = ~0ull;  ///< every byte 0xff

/// Of two findings the smaller one comes first: that of the earlier request. Requests fit in 20
/// bits, columns in 32.
OCTAVO_BOTH constexpr unsigned long long finding(int32_t request, Fault fault, int64_t column) {
  return static_cast<unsigned long long>(request) << 36 |
         static_cast<unsigned long long>(fault) << 32 | static_cast<unsigned long long>(column);
}
OCTAVO_BOTH constexpr int32_t request_of(unsigned long long finding) {
  return static_cast<int32_t>(finding >> 36);
}
OCTAVO_BOTH constexpr Fault fault_of(unsigned long long finding) {
  return static_cast<Fault>(finding >> 32 & 15);
}
OCTAVO_BOTH constexpr int64_t column_of(unsigned long long finding) {
  return static_cast<int64_t>(finding & 0xffffffffu);
}

#undef OCTAVO_BOTH

}  // namespace octavo::cuda
