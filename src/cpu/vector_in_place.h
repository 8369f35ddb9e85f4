// The functions of TileMath for few rows: K and V are read where they lie, in floats. Internal
// linkage, as in vector_math.h.
#pragma once

#include <algorithm>
#include <cstring>

#include "core/limits.h"
#include "cpu/convert.h"
#include "cpu/tile_math.h"

namespace octavo {
namespace {

alignas(64) constexpr std::byte kZeros[kMaxHeadDim * 4] = {};  // a row of the widest dim

/// Scores of four keys and a few rows.
template <DType T, int Rows>
void score_four(const std::byte* const* keys, const float* q, std::int64_t pitch, std::int64_t d,
                float* scores, std::int64_t scores_pitch) {
  constexpr int kSums = (4 * Rows + kLanes - 1) / kLanes * kLanes;
  Vector sums[kSums] = {};
  const auto add = [&](std::int64_t c, std::int64_t end) __attribute__((always_inline)) {
    Vector k[4];
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) k[j] = load_as_floats<T>(keys[j], c, end);
#pragma GCC unroll 4
    for (int r = 0; r < Rows; ++r) {
      const Vector query = load(q + r * pitch + c);
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j) sums[4 * r + j] = fma(query, k[j], sums[4 * r + j]);
    }
  };
  std::int64_t c = 0;
  for (; c + kLanes <= d; c += kLanes) add(c, c + kLanes);
  if (c < d) add(c, d);
  float all[kSums];
  for (int i = 0; i < kSums; i += kLanes) store(all + i, sum_each(sums + i));
  for (int r = 0; r < Rows; ++r) std::memcpy(scores + r * scores_pitch, all + 4 * r, 16);
}

/// Calls body.operator()<Rows>(first) for rows in groups of Most and then the rest.
template <int Most, typename Body>
void in_groups(std::int64_t first, std::int64_t rows, const Body& body) {
  for (; rows >= Most; rows -= Most, first += Most) body.template operator()<Most>(first);
  if constexpr (Most > 1) {
    if (rows > 0) in_groups<Most - 1>(first, rows, body);
  }
}

// Tokens are the outer loop, heads the inner: where the heads of a token lie side by side, K and V
// are read from one end to the other.

/// Fetches the rows of a head that come next.
[[gnu::always_inline]] inline void fetch_ahead(const InPlace& rows, std::int64_t first,
                                               std::int64_t count, std::int64_t head) {
  const std::int64_t bytes = rows.width * static_cast<std::int64_t>(size_of(rows.dtype));
  for (std::int64_t i = first; i < std::min(first + count, rows.keys); ++i) {
    const std::byte* token = rows.tokens[i + kAhead];
    if (token != nullptr) fetch(token + head * rows.head_stride, bytes);
  }
}

inline void score_in_place(const InPlace& keys, const float* q, float* scores,
                           std::int64_t scores_pitch) {
  with_dtype(keys.dtype, [&]<DType T> {
    for (std::int64_t j = 0; j < padded(keys.keys); j += 4) {
      for (std::int64_t h = 0; h < keys.heads; ++h) {
        fetch_ahead(keys, j, 4, h);
        const std::byte* four[4];
        for (int i = 0; i < 4; ++i) {
          const std::byte* token = j + i < keys.keys ? keys.tokens[j + i] : nullptr;
          four[i] = token != nullptr ? token + h * keys.head_stride : kZeros;
        }
        in_groups<kRowsInPlace>(h * keys.rows, keys.rows, [&]<int Rows>(std::int64_t r) {
          score_four<T, Rows>(four, q + r * keys.pitch, keys.pitch, keys.width,
                              scores + r * scores_pitch + j, scores_pitch);
        });
      }
    }
  });
}

inline bool finite_in_place(const InPlace& values) {
  Vector sum = {};  // of zeros, unless some value is not finite
  with_dtype(values.dtype, [&]<DType T> {
    for (std::int64_t j = 0; j < values.keys; ++j) {
      if (values.tokens[j] == nullptr) continue;
      for (std::int64_t h = 0; h < values.heads; ++h) {
        const std::byte* row = values.tokens[j] + h * values.head_stride;
        for (std::int64_t c = 0; c < values.width; c += kLanes) {
          sum = fma(load_as_floats<T>(row, c, values.width), Vector{}, sum);
        }
      }
    }
  });
  return sum_lanes(sum) == 0;
}

/// Some vectors of a few rows, for tokens of one head: several whole vectors, or one that may be
/// cut.
template <DType T, int Rows, int Vectors>
void add_columns(const std::byte* const* tokens, std::int64_t count, std::int64_t column,
                 std::int64_t width, const float* weights, std::int64_t weights_pitch, float* out,
                 std::int64_t pitch) {
  Vector sums[Rows][Vectors];
#pragma GCC unroll 4
  for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; ++v) sums[r][v] = load(out + r * pitch + column + v * kLanes);
  }
  for (std::int64_t j = 0; j < count; ++j) {
    if (tokens[j] == nullptr) continue;
    Vector value[Vectors];
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; ++v) {
      const std::int64_t c = column + v * kLanes;
      value[v] = load_as_floats<T>(tokens[j], c, Vectors > 1 ? c + kLanes : width);
    }
#pragma GCC unroll 4
    for (int r = 0; r < Rows; ++r) {
      const Vector factor = broadcast(weights[r * weights_pitch + j]);
#pragma GCC unroll 4
      for (int v = 0; v < Vectors; ++v) sums[r][v] = fma(factor, value[v], sums[r][v]);
    }
  }
#pragma GCC unroll 4
  for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; ++v) store(out + r * pitch + column + v * kLanes, sums[r][v]);
  }
}

inline void add_in_place(const InPlace& values, const float* weights, std::int64_t weights_pitch,
                         float* out) {
  constexpr std::int64_t kTokens = 8;  // at once: streams that the processor can follow
  constexpr std::int64_t kStep = 4 * kLanes;
  const std::int64_t width = values.width;
  with_dtype(values.dtype, [&]<DType T> {
    for (std::int64_t j = 0; j < values.keys; j += kTokens) {
      const std::int64_t count = std::min(kTokens, values.keys - j);
      for (std::int64_t h = 0; h < values.heads; ++h) {
        fetch_ahead(values, j, count, h);
        const std::byte* tokens[kTokens];
        for (std::int64_t i = 0; i < count; ++i) {
          const std::byte* token = values.tokens[j + i];
          tokens[i] = token != nullptr ? token + h * values.head_stride : nullptr;
        }
        in_groups<kRowsInPlace>(h * values.rows, values.rows, [&]<int Rows>(std::int64_t r) {
          const float* w = weights + r * weights_pitch + j;
          float* o = out + r * values.pitch;
          std::int64_t c = 0;
          for (; c + kStep <= width; c += kStep) {
            add_columns<T, Rows, 4>(tokens, count, c, width, w, weights_pitch, o, values.pitch);
          }
          for (; c < width; c += kLanes) {
            add_columns<T, Rows, 1>(tokens, count, c, width, w, weights_pitch, o, values.pitch);
          }
        });
      }
    }
  });
}

}  // namespace
}  // namespace octavo
