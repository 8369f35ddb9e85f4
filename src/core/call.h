#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "octavo/arguments.h"
#include "octavo/problem.h"

namespace octavo {

/// One request of a run, after all checks.
struct Request {
  std::int64_t q_begin;  ///< its first row in q and out
  std::int64_t q_len;
  std::int64_t kv_begin;  ///< its first token in k and v (layouts without pages)
  std::int64_t kv_len;
  const std::int32_t* pages;  ///< its row of the page table (paged)

  std::int64_t position(std::int64_t token) const { return kv_len - q_len + token; }
};

/// A run whose arguments fit its problem. All that a kernel reads.
struct Call {
  const Problem& problem;
  const Arguments& arguments;
  std::vector<Request> requests;
  std::byte* workspace;

  /// Address of token `j` of a request in K or V, for a KV head.
  const std::byte* kv_row(const KvView& view, const Request& request, std::int64_t j,
                          std::int64_t head) const {
    std::int64_t page = 0;
    std::int64_t slot = request.kv_begin + j;
    if (problem.layout == Layout::paged) {
      page = request.pages[j / problem.page_size];
      slot = j % problem.page_size;
    }
    std::int64_t offset = page * view.stride[0] + slot * view.stride[1] + head * view.stride[2];
    return static_cast<const std::byte*>(view.data) +
           offset * static_cast<std::int64_t>(size_of(view.dtype));
  }
};

/// The factor for a KV head.
inline float scale_of(const Scale& scale, ScaleKind kind, std::int64_t kv_head) {
  switch (kind) {
    case ScaleKind::host:
      return scale.value;
    case ScaleKind::tensor:
      return scale.values[0];
    case ScaleKind::head:
      return scale.values[static_cast<std::size_t>(kv_head)];
  }
  return scale.value;
}

/// Keys [begin, end) of a row; empty if begin >= end.
struct KeyRange {
  std::int64_t begin;
  std::int64_t end;
};

/// The keys that the mask leaves to the query at `position`. With bits: the keys that have a bit.
inline KeyRange visible_keys(const Mask& mask, std::int64_t position, std::int64_t kv_len) {
  KeyRange range{0, kv_len};
  switch (mask.kind) {
    case MaskKind::none:
    case MaskKind::bits:
      break;
    case MaskKind::causal:
      range.end = std::min(kv_len, position + 1);
      break;
    case MaskKind::window:
      if (mask.left >= 0) range.begin = std::max<std::int64_t>(0, position - mask.left);
      if (mask.right >= 0) range.end = std::min(kv_len, position + mask.right + 1);
      break;
    case MaskKind::chunked:
      range.begin = position < 0 ? 0 : position / mask.chunk * mask.chunk;
      range.end = std::min(kv_len, position + 1);
      break;
  }
  return range;
}

inline bool mask_bit(const MaskBits& bits, std::int64_t row, std::int64_t key) {
  return (bits.data[row * bits.row_bytes + key / 8] >> (key % 8)) & 1;
}

}  // namespace octavo
