// A tile of Q into shared memory, as the type that is multiplied.
#pragma once

#include "common/elements.h"
#include "portable/shared.h"
#include "portable/work.h"

namespace octavo::cuda {

/// Where pair i of the sixteen elements of a product's step goes. K of fp8 gives a lane four
/// elements in a row where it takes 2t, 2t + 1 and 2t + 8, 2t + 9; with Q in this order they meet.
__device__ inline int place_of_pair(int pair) {
  return kKvBytes == 2 ? pair : (pair & ~7) | (pair & 1) << 2 | (pair & 6) >> 1;
}

/// Where a row of Q begins, in elements.
__device__ inline int64_t query_offset(const PortableParams& p, const RowTile& tile,
                                       int32_t kv_head, int row) {
  const Quotient at = divide(tile.first_row + row, p.group);
  const int64_t head = int64_t{kv_head} * p.group.value + at.remainder;
  return (int64_t{tile.place.q_begin} + at.quotient) * p.attention.q_token_stride +
         head * p.attention.q_head_stride;
}

/// Eight elements from column `c` on, zeros past the last.
__device__ inline uint4 load_queries(const PortableParams& p, int64_t offset, int c) {
  const int left = p.attention.d - c;
  if (left <= 0) return {0, 0, 0, 0};
  if (p.q_whole && left >= 8) {
    return *reinterpret_cast<const uint4*>(
        static_cast<const unsigned short*>(p.attention.q) + offset + c);
  }
  unsigned pairs[4];
  for (int i = 0; i < 4; ++i) {
    const int64_t at = offset + c + 2 * i;
    const float low = 2 * i < left ? load(Type{p.q_type}, p.attention.q, at) : 0.0f;
    const float high = 2 * i + 1 < left ? load(Type{p.q_type}, p.attention.q, at + 1) : 0.0f;
    pairs[i] = pack<kHalf>(low, high);
  }
  return {pairs[0], pairs[1], pairs[2], pairs[3]};
}

/// All threads take part. `flip` is XORed to each pair: it may turn the signs.
__device__ inline void store_queries(const PortableParams& p, const RowTile& tile, int32_t kv_head,
                                     unsigned flip, Shared& shared) {
  constexpr int kChunks = kD / 8;  // of a row
  for (int i = static_cast<int>(threadIdx.x); i < kRows * kChunks; i += kThreads) {
    const int row = i / kChunks;
    const int chunk = i % kChunks;
    uint4 q{0, 0, 0, 0};
    if (row < tile.rows) q = load_queries(p, query_offset(p, tile, kv_head, row), chunk * 8);
    q = {q.x ^ flip, q.y ^ flip, q.z ^ flip, q.w ^ flip};
    unsigned char* to = shared.q + row * kQPitch;
    if constexpr (kKvBytes == 2) {
      *reinterpret_cast<uint4*>(to + chunk * 16) = q;
    } else {
      unsigned* pairs = reinterpret_cast<unsigned*>(to);
      pairs[place_of_pair(chunk * 4)] = q.x;
      pairs[place_of_pair(chunk * 4 + 1)] = q.y;
      pairs[place_of_pair(chunk * 4 + 2)] = q.z;
      pairs[place_of_pair(chunk * 4 + 3)] = q.w;
    }
  }
}

}  // namespace octavo::cuda
