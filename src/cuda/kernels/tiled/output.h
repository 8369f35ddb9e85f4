// A warp's rows of O out of its registers: results into out, or partial ones into the workspace.
#pragma once

#include "tiled/result.h"
#include "tiled/softmax.h"

namespace octavo::cuda {

/// The columns of V that this thread block has.
struct Slice {
  int32_t first;
  int32_t columns;
  __device__ bool is_first() const { return first == 0; }
};

__device__ inline void write_partial(const RowTile& tile, const Softmax& softmax, const Sums& sums,
                                     const Slice& slice, const Partial& to) {
#pragma unroll
  for (int b = 0; b < kBlocks; ++b) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = row_of(b, half);
      const float sum = softmax.row_sum(b, half);
      if (row >= tile.rows) continue;
      if (slice.is_first() && lane_of_warp() % 4 == 0) {
        to.states[row] = {softmax.reference[b][half], sum};
      }
      float* at = to.sums + int64_t{row} * to.pitch + slice.first;
#pragma unroll
      for (int n = 0; n < kValueTiles; n += 2) {
        const float(&x)[4] = sums[b][n];
        const float(&y)[4] = sums[b][n + 1];
        const int i = 2 * half;
        if (n * 8 >= to.pitch - slice.first) continue;
        if constexpr (kKvBytes == 2) {
          *reinterpret_cast<float2*>(at + column_of(n, 0)) = {x[i], x[i + 1]};
          *reinterpret_cast<float2*>(at + column_of(n + 1, 0)) = {y[i], y[i + 1]};
        } else {
          *reinterpret_cast<float4*>(at + column_of(n, 0)) = {x[i], y[i], x[i + 1], y[i + 1]};
        }
      }
    }
  }
}

// Rows are staged in shared memory that nobody needs any more: `staged(row, byte)` is where a byte
// of a row of the tile stands. A warp stages its own rows.

/// One 16-bit row of this lane's fragments.
template <Half Kind, typename Staged>
__device__ inline void stage_row(const Staged& staged, int row, const float (&sums)[kValueTiles][4],
                                 int half, float factor) {
  const int i = 2 * half;
#pragma unroll
  for (int n = 0; n < kValueTiles; n += 2) {
    const float x0 = sums[n][i] * factor;
    const float x1 = sums[n][i + 1] * factor;
    const float y0 = sums[n + 1][i] * factor;
    const float y1 = sums[n + 1][i + 1] * factor;
    if constexpr (kKvBytes == 2) {
      *reinterpret_cast<unsigned*>(staged(row, column_of(n, 0) * 2)) = pack<Kind>(x0, x1);
      *reinterpret_cast<unsigned*>(staged(row, column_of(n + 1, 0) * 2)) = pack<Kind>(y0, y1);
    } else {
      *reinterpret_cast<uint2*>(staged(row, column_of(n, 0) * 2)) = {pack<Kind>(x0, y0),
                                                                     pack<Kind>(x1, y1)};
    }
  }
}

/// The warp's staged rows to out, 16 bytes at a time where they fit.
template <typename Staged>
__device__ inline void copy_staged(const TiledParams& p, const RowTile& tile, int32_t kv_head,
                                   const Slice& slice, const Staged& staged) {
  constexpr int kChunks = kDv / 8;
  const int first_row = warp_of_block() * kRowsOfWarp;
  for (int i = lane_of_warp(); i < kRowsOfWarp * kChunks; i += kWarp) {
    const int row = first_row + i / kChunks;
    const int c = i % kChunks * 8;
    if (row >= tile.rows || c >= slice.columns) continue;
    const RowHead at(p, tile, kv_head, row);
    unsigned short* to = static_cast<unsigned short*>(p.attention.out) +
                         at.out_offset(p.attention) + slice.first + c;
    const unsigned char* from = staged(row, c * 2);
    if (p.out_whole && slice.columns - c >= 8) {
      *reinterpret_cast<uint4*>(to) = *reinterpret_cast<const uint4*>(from);
      continue;
    }
    for (int e = 0; e < min(8, slice.columns - c); ++e) {
      to[e] = reinterpret_cast<const unsigned short*>(from)[e];
    }
  }
}

/// The same for floats and half of the columns, those from `first_tile` on.
template <typename Staged>
__device__ inline void stage_floats(const Staged& staged, int row,
                                    const float (&sums)[kValueTiles][4], int first_tile, int half,
                                    float factor) {
  const int before = column_of(first_tile, 0) - column_of(0, 0);
#pragma unroll
  for (int n = 0; n < kValueTiles / 2; ++n) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int column = column_of(first_tile + n, i) - before;
      *reinterpret_cast<float*>(staged(row, column * 4)) =
          sums[first_tile + n][2 * half + i] * factor;
    }
  }
}

/// Staged floats to out, as its type.
template <typename Staged>
__device__ inline void copy_floats(const TiledParams& p, const RowTile& tile, int32_t kv_head,
                                   const Slice& slice, int first_column, const Staged& staged) {
  constexpr int kColumns = kDv / 2;
  const int first_row = warp_of_block() * kRowsOfWarp;
#pragma unroll 1
  for (int i = lane_of_warp(); i < kRowsOfWarp * kColumns; i += kWarp) {
    const int row = first_row + i / kColumns;
    const int c = i % kColumns;
    if (row >= tile.rows || first_column + c >= slice.columns) continue;
    const RowHead at(p, tile, kv_head, row);
    store(Type{p.out_type}, p.attention.out,
          at.out_offset(p.attention) + slice.first + first_column + c,
          *reinterpret_cast<const float*>(staged(row, c * 4)));
  }
}

using Factors = float[kBlocks][2];

/// Through shared memory, so that a row is written as a whole.
template <typename Staged>
__device__ inline void write_rows(const TiledParams& p, const RowTile& tile, int32_t kv_head,
                                  const Factors& factors, const Sums& sums, const Slice& slice,
                                  const Staged& staged) {
  const Type type{p.out_type};
  __syncwarp();  // the lanes have read their queries
  if (type == Type::bf16 || type == Type::f16) {
#pragma unroll
    for (int r = 0; r < 2 * kBlocks; ++r) {
      const int row = row_of(r / 2, r % 2);
      if (type == Type::bf16) {
        stage_row<Half::bf16>(staged, row, sums[r / 2], r % 2, factors[r / 2][r % 2]);
      } else {
        stage_row<Half::f16>(staged, row, sums[r / 2], r % 2, factors[r / 2][r % 2]);
      }
    }
    __syncwarp();
    copy_staged(p, tile, kv_head, slice, staged);
    return;
  }
#pragma unroll
  for (int first_tile = 0; first_tile < kValueTiles; first_tile += kValueTiles / 2) {
#pragma unroll
    for (int r = 0; r < 2 * kBlocks; ++r) {
      stage_floats(staged, row_of(r / 2, r % 2), sums[r / 2], first_tile, r % 2,
                   factors[r / 2][r % 2]);
    }
    __syncwarp();
    copy_floats(p, tile, kv_head, slice, first_tile * 8, staged);
    __syncwarp();
  }
}

template <typename Staged>
__device__ inline void write_result(const TiledParams& p, const RowTile& tile, int32_t kv_head,
                                    const Softmax& softmax, const Sums& sums, const Slice& slice,
                                    const Staged& staged) {
  const float factor = value_factor(p.attention, kv_head);
  Factors factors;
#pragma unroll
  for (int r = 0; r < 2 * kBlocks; ++r) {
    const RowState state{softmax.reference[r / 2][r % 2], softmax.row_sum(r / 2, r % 2)};
    const int row = row_of(r / 2, r % 2);
    factors[r / 2][r % 2] = 0;
    if (row >= tile.rows) continue;
    const RowHead at(p, tile, kv_head, row);
    const bool write_lse = slice.is_first() && lane_of_warp() % 4 == 0;
    factors[r / 2][r % 2] = finish_row(p.attention, at, state, factor, write_lse);
  }
  write_rows(p, tile, kv_head, factors, sums, slice, staged);
}

}  // namespace octavo::cuda
