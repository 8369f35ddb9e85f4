// Scores of a tile on their way to the softmax: soft cap, ALiBi, mask.
#pragma once

#include "ptx/math.h"
#include "tiled/finite.h"
#include "tiled/fragments.h"
#include "tiled/rows.h"
#include "tiled/seen.h"

namespace octavo::cuda {

/// tanh(y) = 1 - 2 / (1 + exp(2 y))
__device__ inline void cap_scores(Scores& scores, const LogitScale& logit) {
#pragma unroll
  for (int b = 0; b < kBlocks; ++b) {
#pragma unroll
    for (int n = 0; n < kKeyTiles; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float e = exp2_fast(scores[b][n][i] * logit.cap_scale);
        scores[b][n][i] = fmaf(-2 * logit.cap, reciprocal_fast(1 + e), logit.cap);
      }
    }
  }
}

/// `first`: the first of the tile's keys that the warp has.
__device__ inline void add_alibi(Scores& scores, const TiledParams& p, const Rows& rows,
                                 int32_t first) {
#pragma unroll
  for (int b = 0; b < kBlocks; ++b) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = min(row_of(b, half), rows.tile.rows - 1);
      const Quotient at = divide(rows.tile.first_row + row, p.group);
      const float slope =
          slope_of(p.attention, rows.kv_head * p.group.value + at.remainder) * kLog2E;
      const int32_t distance =
          first + lane_of_warp() % 4 * 2 - rows.tile.place.position(at.quotient);
#pragma unroll
      for (int n = 0; n < kKeyTiles; ++n) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          float& score = scores[b][n][2 * half + i];
          score =
              fmaf(slope, static_cast<float>(distance + n * 8 + i), score * rows.logit.alibi_scale);
        }
      }
    }
  }
}

/// From products to logits, or what the softmax's factor makes logits.
__device__ inline void shape_scores(Scores& scores, const TiledParams& p, const Rows& rows,
                                    int32_t first) {
  if constexpr (!kCapAlibiOrBits) return;
  if (rows.logit.cap != 0) cap_scores(scores, rows.logit);
  if (rows.logit.alibi) add_alibi(scores, p, rows, first);
}

/// Hides what the mask's bits hide from a row. `bits`: of the tile's first key.
__device__ inline void hide_by_bits(float (&scores)[kKeyTiles][4], int half, const uint8_t* bits,
                                    int32_t left) {
#pragma unroll
  for (int n = 0; n < kKeyTiles; ++n) {
    const unsigned byte = n * 8 < left ? bits[n] : 0u;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      if ((byte >> (lane_of_warp() % 4 * 2 + i) & 1) == 0) scores[n][2 * half + i] = -infinity();
    }
  }
}

/// Of this lane's keys in a tile, 8 n and 8 n + 1 further than its first, a bit for each that is
/// less than `end` further.
__device__ inline unsigned keys_before(int32_t end) {
  static_assert(kKeyTiles <= 16);
  const int32_t count = end <= 0 ? 0 : end / 8 * 2 + min(end % 8, 2);
  return count >= 32 ? kAllLanes : (1u << count) - 1;
}

/// Hides the keys that a row does not see. `first`: the first key of the tile.
__device__ inline void hide(Scores& scores, const TiledParams& p, const Rows& rows, int32_t first) {
  const RowTile& tile = rows.tile;
#pragma unroll
  for (int b = 0; b < kBlocks; ++b) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = row_of(b, half);
      KeyRange seen = tile.keys;
      if constexpr (kMasked) seen = rows.keys[row];
      const int32_t lane_first = first + lane_of_warp() % 4 * 2;
      const unsigned visible =
          keys_before(seen.end - lane_first) & ~keys_before(seen.begin - lane_first);
#pragma unroll
      for (int n = 0; n < kKeyTiles; ++n) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          if ((visible >> (2 * n + i) & 1) == 0) scores[b][n][2 * half + i] = -infinity();
        }
      }
      if (kMasked && masks_by_bits(p) && row < tile.rows) {
        const int64_t token =
            int64_t{tile.place.q_begin} + divide(tile.first_row + row, p.group).quotient;
        hide_by_bits(scores[b], half,
                     p.attention.mask_bits + token * p.attention.mask_row_bytes + first / 8,
                     seen.end - first);
      }
    }
  }
}

/// Whether a row of the tile sees a key.
__device__ inline bool sees(const TiledParams& p, const Rows& rows, int row, int32_t key) {
  const KeyRange seen = rows.keys[row];
  if (key < seen.begin || key >= seen.end) return false;
  if (!masks_by_bits(p)) return true;
  const int32_t token = divide(rows.tile.first_row + row, p.group).quotient;
  return mask_bit(p.attention, int64_t{rows.tile.place.q_begin} + token, key);
}

/// Adds the infinite and NaN values of a tile to the sums of the rows that see their keys.
/// `value_at(key, column)`: where an element of the tile stands. Seldom needed: what it adds goes
/// through memory, to take few registers.
template <typename ValueAt>
__device__ inline void add_specials(Sums& sums, const TiledParams& p, const Rows& rows,
                                    int32_t first, const ValueAt& value_at) {
#pragma unroll
  for (int b = 0; b < kBlocks; ++b) {
    float specials[kValueTiles * 4];
#pragma unroll 1
    for (int i = 0; i < kValueTiles * 4; ++i) {
      const int row = row_of(b, i / 2 % 2);
      const int column = column_of(i / 4, i % 2);
      float sum = 0;
#pragma unroll 1
      for (int key = 0; key < kWarpKeys; ++key) {
        const float value = special_value(value_at(key, column));
        if (value != 0 && sees(p, rows, row, first + key)) sum += value;
      }
      specials[i] = sum;
    }
#pragma unroll
    for (int i = 0; i < kValueTiles * 4; ++i) sums[b][i / 4][i % 4] += specials[i];
  }
}

}  // namespace octavo::cuda
