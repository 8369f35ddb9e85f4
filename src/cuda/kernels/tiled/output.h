// A warp's rows of O out of its registers: results into out, or partial ones into the workspace.
#pragma once

#include "tiled/result.h"
#include "tiled/softmax.h"

namespace octavo::cuda {

/// The columns of V that a thread block or a warp has.
struct Slice {
  int32_t first;
  int32_t columns;
  __device__ bool is_first() const { return first == 0; }
};

/// `Tiles` here and below: of eight columns, of the slice.
template <int Tiles>
__device__ inline void write_partial(const RowTile& tile, const RowStates& states,
                                     const float (&sums)[kBlocks][Tiles][4], const Slice& slice,
                                     const Partial& to) {
#pragma unroll
  for (int b = 0; b < kBlocks; ++b) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = row_of(b, half);
      if (row >= tile.rows) continue;
      if (slice.is_first() && lane_of_warp() % 4 == 0) to.states[row] = states.of[b][half];
      float* at = to.sums + int64_t{row} * to.pitch + slice.first;
#pragma unroll
      for (int n = 0; n < Tiles; n += 2) {
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

/// Of a 4 x 4 matrix each of four neighbouring lanes has a column, and then the row of its number.
__device__ inline void transpose_in_quad(unsigned (&words)[4]) {
#pragma unroll
  for (int step = 1; step <= 2; step *= 2) {
    const bool upper = (lane_of_warp() & step) != 0;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if ((i & step) != 0) continue;
      const unsigned got = __shfl_xor_sync(kAllLanes, upper ? words[i] : words[i + step], step);
      (upper ? words[i] : words[i + step]) = got;
    }
  }
}

/// A row of this lane's fragments, `columns` of them, as 16-bit elements in chunks of 16 bytes. The
/// four lanes that have it exchange registers, so that each stores whole chunks. All lanes of a
/// warp call it; `row`: where the row begins, if it exists.
template <Half Kind, int Tiles>
__device__ inline void write_chunks(unsigned short* row, bool exists, int columns,
                                    const float (&sums)[Tiles][4], int half, float factor) {
  const int quad_lane = lane_of_warp() % 4;
#pragma unroll
  for (int n = 0; n < Tiles; n += 4) {
    unsigned words[4];
    int column = 0;
    if constexpr (kKvBytes == 2) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float(&pair)[4] = sums[n + i];
        words[i] = pack<Kind>(pair[2 * half] * factor, pair[2 * half + 1] * factor);
      }
      transpose_in_quad(words);
      column = (n + quad_lane) * 8;
    } else {
      // Of either pair of tiles a lane has four neighbours, and the lane beside it the next four.
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float(&even)[4] = sums[n + i / 2 * 2];
        const float(&odd)[4] = sums[n + i / 2 * 2 + 1];
        words[i] = pack<Kind>(even[2 * half + i % 2] * factor, odd[2 * half + i % 2] * factor);
      }
      const bool upper = quad_lane % 2 != 0;
      const unsigned got0 = __shfl_xor_sync(kAllLanes, upper ? words[0] : words[2], 1);
      const unsigned got1 = __shfl_xor_sync(kAllLanes, upper ? words[1] : words[3], 1);
      if (upper) {
        words[0] = got0;
        words[1] = got1;
      } else {
        words[2] = got0;
        words[3] = got1;
      }
      column = (n + (upper ? 2 : 0)) * 8 + quad_lane / 2 * 8;
    }
    if (exists && column < columns) {
      *reinterpret_cast<uint4*>(row + column) = {words[0], words[1], words[2], words[3]};
    }
  }
}

// Results are most often of the type that is multiplied; where K and V are fp8, of either.
inline constexpr Half kOtherHalf = kHalf == Half::bf16 ? Half::f16 : Half::bf16;
__device__ constexpr Type type_of(Half half) { return half == Half::bf16 ? Type::bf16 : Type::f16; }

/// A row of this lane's fragments as any type. Through memory, to take few registers.
template <int Tiles>
__device__ inline void write_row(const TiledParams& p, const Slice& slice, int64_t row_offset,
                                 const float (&sums)[Tiles][4], int half, float factor) {
  float row[Tiles * 2];
#pragma unroll
  for (int i = 0; i < Tiles * 2; ++i) row[i] = sums[i / 2][2 * half + i % 2] * factor;
#pragma unroll 1
  for (int i = 0; i < Tiles * 2; ++i) {
    const int column = column_of(i / 2, i % 2);
    if (column >= slice.columns) continue;
    store(Type{p.out_type}, p.attention.out, row_offset + slice.first + column, row[i]);
  }
}

/// What a row's sums are multiplied by, and where it begins in out, in elements.
struct RowEnd {
  float factor;
  int64_t offset;
};

/// Of the rows that four neighbouring lanes have, the one whose number is this lane's among them.
__device__ inline RowEnd end_row(const TiledParams& p, const RowTile& tile, int32_t kv_head,
                                 const RowStates& states, bool write_lse) {
  const int mine = lane_of_warp() % (2 * kBlocks);
  RowState state{};
#pragma unroll
  for (int r = 0; r < 2 * kBlocks; ++r) {
    if (r == mine) state = states.of[r / 2][r % 2];
  }
  const int row = row_of(mine / 2, mine % 2);
  if (row >= tile.rows) return {0, 0};
  const RowHead at(p, tile, kv_head, row);
  const float factor = finish_row(p.attention, at, state, value_factor(p.attention, kv_head),
                                  write_lse && lane_of_warp() % 4 == mine);
  return {factor, at.out_offset(p.attention)};
}

/// `own`: of the lane, by `end_row`.
template <int Tiles>
__device__ inline void write_result(const TiledParams& p, const RowTile& tile, const RowEnd& own,
                                    const float (&sums)[kBlocks][Tiles][4], const Slice& slice) {
  static_assert(2 * kBlocks <= 4);
  const Type type{p.out_type};
  const bool in_chunks = p.out_whole && slice.columns % 8 == 0;
#pragma unroll
  for (int r = 0; r < 2 * kBlocks; ++r) {
    const float(&row_sums)[Tiles][4] = sums[r / 2];
    const bool exists = row_of(r / 2, r % 2) < tile.rows;
    const int owner = lane_of_warp() / 4 * 4 + r;
    const float factor = __shfl_sync(kAllLanes, own.factor, owner);
    const int64_t offset = __shfl_sync(kAllLanes, own.offset, owner);
    unsigned short* row = static_cast<unsigned short*>(p.attention.out) + offset + slice.first;
    if (in_chunks && type == type_of(kHalf)) {
      write_chunks<kHalf>(row, exists, slice.columns, row_sums, r % 2, factor);
    } else if (kKvBytes == 1 && in_chunks && type == type_of(kOtherHalf)) {
      write_chunks<kOtherHalf>(row, exists, slice.columns, row_sums, r % 2, factor);
    } else if (exists) {
      write_row(p, slice, offset, row_sums, r % 2, factor);
    }
  }
}

}  // namespace octavo::cuda
