// The functions of TileMath for few rows: K and V are read where they lie, in floats. Internal
// linkage, as in vector_math.h.
#pragma once

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
  for (std::int64_t c = 0; c < d; c += kLanes) {
    Vector k[4];
    for (int j = 0; j < 4; ++j) k[j] = load_as_floats<T>(keys[j], c, d);
    for (int r = 0; r < Rows; ++r) {
      const Vector query = load(q + r * pitch + c);
      for (int j = 0; j < 4; ++j) sums[4 * r + j] = fma(query, k[j], sums[4 * r + j]);
    }
  }
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

inline void score_rows(const InPlace& keys, const float* q, float* scores,
                       std::int64_t scores_pitch) {
  const std::int64_t bytes = keys.width * static_cast<std::int64_t>(size_of(keys.dtype));
  with_dtype(keys.dtype, [&]<DType T> {
    for (std::int64_t j = 0; j < padded(keys.keys); j += 4) {
      const std::byte* four[4];
      for (int i = 0; i < 4; ++i) {
        const bool inside = j + i < keys.keys;
        four[i] = inside && keys.tokens[j + i] != nullptr ? keys.tokens[j + i] : kZeros;
        if (inside) fetch(keys.tokens[j + i + kAhead], bytes);
      }
      in_groups<kRowsInPlace>(0, keys.rows, [&]<int Rows>(std::int64_t r) {
        score_four<T, Rows>(four, q + r * keys.pitch, keys.pitch, keys.width,
                            scores + r * scores_pitch + j, scores_pitch);
      });
    }
  });
}

inline bool rows_finite(const InPlace& values) {
  Vector sum = {};  // of zeros, unless some value is not finite
  with_dtype(values.dtype, [&]<DType T> {
    for (std::int64_t j = 0; j < values.keys; ++j) {
      if (values.tokens[j] == nullptr) continue;
      for (std::int64_t c = 0; c < values.width; c += kLanes) {
        sum = fma(load_as_floats<T>(values.tokens[j], c, values.width), Vector{}, sum);
      }
    }
  });
  return sum_lanes(sum) == 0;
}

/// Some vectors of a few rows.
template <DType T, int Rows, int Vectors>
void add_columns(const InPlace& values, std::int64_t column, const float* weights,
                 std::int64_t weights_pitch, float* out, bool fetching) {
  const std::int64_t bytes = values.width * static_cast<std::int64_t>(size_of(T));
  Vector sums[Rows][Vectors];
  for (int r = 0; r < Rows; ++r) {
    for (int v = 0; v < Vectors; ++v) {
      sums[r][v] = load(out + r * values.pitch + column + v * kLanes);
    }
  }
  for (std::int64_t j = 0; j < values.keys; ++j) {
    if (fetching) fetch(values.tokens[j + kAhead], bytes);
    if (values.tokens[j] == nullptr) continue;
    Vector value[Vectors];
    for (int v = 0; v < Vectors; ++v) {
      value[v] = load_as_floats<T>(values.tokens[j], column + v * kLanes, values.width);
    }
    for (int r = 0; r < Rows; ++r) {
      const Vector factor = broadcast(weights[r * weights_pitch + j]);
      for (int v = 0; v < Vectors; ++v) sums[r][v] = fma(factor, value[v], sums[r][v]);
    }
  }
  for (int r = 0; r < Rows; ++r) {
    for (int v = 0; v < Vectors; ++v) {
      store(out + r * values.pitch + column + v * kLanes, sums[r][v]);
    }
  }
}

inline void add_rows(const InPlace& values, const float* weights, std::int64_t weights_pitch,
                     float* out) {
  with_dtype(values.dtype, [&]<DType T> {
    in_groups<kRowsInPlace>(0, values.rows, [&]<int Rows>(std::int64_t r) {
      const float* w = weights + r * weights_pitch;
      float* o = out + r * values.pitch;
      constexpr std::int64_t kStep = 4 * kLanes;
      std::int64_t c = 0;
      for (; c + kStep <= values.width; c += kStep) {
        add_columns<T, Rows, 4>(values, c, w, weights_pitch, o, c == 0 && r == 0);
      }
      for (; c < values.width; c += kLanes) {
        add_columns<T, Rows, 1>(values, c, w, weights_pitch, o, c == 0 && r == 0);
      }
    });
  });
}

}  // namespace
}  // namespace octavo
