// Elements of Q as the type that is multiplied.
#pragma once

#include "common/elements.h"
#include "ptx/packed.h"
#include "tiled/config.h"
#include "tiled/work.h"

namespace octavo::cuda {

/// Where a row of Q begins, in elements.
__device__ inline int64_t query_offset(const TiledParams& p, const RowTile& tile, int32_t kv_head,
                                       int row) {
  const Quotient at = divide(tile.first_row + row, p.group);
  const int64_t head = int64_t{kv_head} * p.group.value + at.remainder;
  return (int64_t{tile.place.q_begin} + at.quotient) * p.attention.q_token_stride +
         head * p.attention.q_head_stride;
}

/// Up to eight elements from `offset` on, of any type and alignment; zeros after them.
__device__ __noinline__ uint4 convert_queries(const TiledParams& p, int64_t offset, int count) {
  uint4 q{0, 0, 0, 0};
#pragma unroll 1
  for (int i = 0; i < count; ++i) {
    const float value = load(Type{p.q_type}, p.attention.q, offset + i);
    const unsigned element = pack<kHalf>(value, 0) << (i % 2 * 16);
    if (i / 2 == 0) q.x |= element;
    if (i / 2 == 1) q.y |= element;
    if (i / 2 == 2) q.z |= element;
    if (i / 2 == 3) q.w |= element;
  }
  return q;
}

/// Eight elements from column `c` on, zeros past the last.
__device__ inline uint4 load_queries(const TiledParams& p, int64_t offset, int c) {
  const int left = p.attention.d - c;
  if (p.q_whole && left >= 8) {
    return *reinterpret_cast<const uint4*>(static_cast<const unsigned short*>(p.attention.q) +
                                           offset + c);
  }
  return convert_queries(p, offset + c, min(left, 8));
}

}  // namespace octavo::cuda
