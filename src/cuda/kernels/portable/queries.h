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

/// Up to eight elements from `offset` on, of any type and alignment; zeros after them.
__device__ __noinline__ uint4 convert_queries(const PortableParams& p, int64_t offset, int count) {
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
__device__ inline uint4 load_queries(const PortableParams& p, int64_t offset, int c) {
  const int left = p.attention.d - c;
  if (p.q_whole && left >= 8) {
    return *reinterpret_cast<const uint4*>(static_cast<const unsigned short*>(p.attention.q) +
                                           offset + c);
  }
  return convert_queries(p, offset + c, min(left, 8));
}

__device__ inline void store_chunk(unsigned char* row, int chunk, uint4 q) {
  if constexpr (kKvBytes == 2) {
    *reinterpret_cast<uint4*>(row + chunk * 16) = q;
  } else {
    unsigned* pairs = reinterpret_cast<unsigned*>(row);
    pairs[place_of_pair(chunk * 4)] = q.x;
    pairs[place_of_pair(chunk * 4 + 1)] = q.y;
    pairs[place_of_pair(chunk * 4 + 2)] = q.z;
    pairs[place_of_pair(chunk * 4 + 3)] = q.w;
  }
}

/// All threads take part. `flip` is XORed to each pair: it may turn the signs.
__device__ inline void store_queries(const PortableParams& p, const RowTile& tile, int32_t kv_head,
                                     unsigned flip, Shared& shared) {
  constexpr int kChunks = kD / 8;  // of a row
  constexpr int kAll = kRows * kChunks;
  constexpr int kTogether = 8;  // loads under way
#pragma unroll 1
  for (int first = static_cast<int>(threadIdx.x); first < kAll; first += kTogether * kThreads) {
    uint4 q[kTogether];
#pragma unroll
    for (int i = 0; i < kTogether; ++i) {
      const int at = first + i * kThreads;
      const int row = at / kChunks;
      q[i] = {0, 0, 0, 0};
      if (at < kAll && row < tile.rows) {
        q[i] = load_queries(p, query_offset(p, tile, kv_head, row), at % kChunks * 8);
      }
    }
#pragma unroll
    for (int i = 0; i < kTogether; ++i) {
      const int at = first + i * kThreads;
      if (at >= kAll) continue;
      store_chunk(shared.q + at / kChunks * kQPitch, at % kChunks,
                  {q[i].x ^ flip, q[i].y ^ flip, q[i].z ^ flip, q[i].w ^ flip});
    }
  }
}

}  // namespace octavo::cuda
