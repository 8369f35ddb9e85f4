// The functions of TileMath for few rows in AVX-512: K and V are read where they lie, in floats.
// Internal linkage, as in avx512_math.h.
#pragma once

#include "core/limits.h"
#include "cpu/avx512_load.h"
#include "cpu/tile_math.h"

namespace octavo {
namespace {

alignas(64) constexpr std::byte kZeros[kMaxHeadDim * 4] = {};  // a row of the widest dim

/// Lane i: the sum over the lanes of vector i.
inline __m512 sum_each(const __m512* x) {
  __m512 quarters[4];
  for (int i = 0; i < 4; ++i) {
    const __m512* y = x + 4 * i;
    const __m512 a = _mm512_add_ps(_mm512_unpacklo_ps(y[0], y[1]), _mm512_unpackhi_ps(y[0], y[1]));
    const __m512 b = _mm512_add_ps(_mm512_unpacklo_ps(y[2], y[3]), _mm512_unpackhi_ps(y[2], y[3]));
    const __m512d low = _mm512_unpacklo_pd(_mm512_castps_pd(a), _mm512_castps_pd(b));
    const __m512d high = _mm512_unpackhi_pd(_mm512_castps_pd(a), _mm512_castps_pd(b));
    quarters[i] = _mm512_add_ps(_mm512_castpd_ps(low), _mm512_castpd_ps(high));
  }
  const auto halves = [](__m512 a, __m512 b) {
    return _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x44), _mm512_shuffle_f32x4(a, b, 0xee));
  };
  const __m512 a = halves(quarters[0], quarters[1]);
  const __m512 b = halves(quarters[2], quarters[3]);
  return _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x88), _mm512_shuffle_f32x4(a, b, 0xdd));
}

/// Scores of four keys and up to four rows.
template <DType T, int Rows>
void score_four(const std::byte* const* keys, const float* q, std::int64_t pitch, std::int64_t d,
                float* scores, std::int64_t scores_pitch) {
  __m512 sums[kLanes];
  for (__m512& sum : sums) sum = _mm512_setzero_ps();
  for (std::int64_t c = 0; c < d; c += kLanes) {
    const __mmask16 mask = first_lanes(d - c);
    __m512 k[4];
    for (int j = 0; j < 4; ++j) k[j] = load<T>(keys[j], c, mask);
    for (int r = 0; r < Rows; ++r) {
      const __m512 query = _mm512_loadu_ps(q + r * pitch + c);
      for (int j = 0; j < 4; ++j) sums[4 * r + j] = _mm512_fmadd_ps(query, k[j], sums[4 * r + j]);
    }
  }
  const __m512 all = sum_each(sums);
  _mm_storeu_ps(scores, _mm512_castps512_ps128(all));
  if constexpr (Rows > 1) _mm_storeu_ps(scores + scores_pitch, _mm512_extractf32x4_ps(all, 1));
  if constexpr (Rows > 2) _mm_storeu_ps(scores + 2 * scores_pitch, _mm512_extractf32x4_ps(all, 2));
  if constexpr (Rows > 3) _mm_storeu_ps(scores + 3 * scores_pitch, _mm512_extractf32x4_ps(all, 3));
}

/// Calls body.operator()<Rows>(first) for rows in fours and then the rest.
template <typename Body>
void in_fours(std::int64_t rows, const Body& body) {
  std::int64_t r = 0;
  for (; r + 4 <= rows; r += 4) body.template operator()<4>(r);
  if (rows - r == 3) body.template operator()<3>(r);
  if (rows - r == 2) body.template operator()<2>(r);
  if (rows - r == 1) body.template operator()<1>(r);
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
      in_fours(keys.rows, [&]<int Rows>(std::int64_t r) {
        score_four<T, Rows>(four, q + r * keys.pitch, keys.pitch, keys.width,
                            scores + r * scores_pitch + j, scores_pitch);
      });
    }
  });
}

inline bool rows_finite(const InPlace& values) {
  bool finite = true;
  with_dtype(values.dtype, [&]<DType T> {
    for (std::int64_t j = 0; j < values.keys; ++j) {
      if (values.tokens[j] == nullptr) continue;
      for (std::int64_t c = 0; c < values.width; c += kLanes) {
        const __m512 x = load<T>(values.tokens[j], c, first_lanes(values.width - c));
        finite = finite && _mm512_fpclass_ps_mask(x, 0x99) == 0;  // NaN, infinity
      }
    }
  });
  return finite;
}

/// Some vectors of up to four rows.
template <DType T, int Rows, int Vectors>
void add_columns(const InPlace& values, std::int64_t column, const float* weights,
                 std::int64_t weights_pitch, float* out, bool fetching) {
  const std::int64_t bytes = values.width * static_cast<std::int64_t>(size_of(T));
  const __mmask16 last = first_lanes(values.width - column - (Vectors - 1) * kLanes);
  __m512 sums[Rows][Vectors];
  for (int r = 0; r < Rows; ++r) {
    for (int v = 0; v < Vectors; ++v) {
      sums[r][v] = _mm512_loadu_ps(out + r * values.pitch + column + v * kLanes);
    }
  }
  for (std::int64_t j = 0; j < values.keys; ++j) {
    if (fetching) fetch(values.tokens[j + kAhead], bytes);
    if (values.tokens[j] == nullptr) continue;
    __m512 value[Vectors];
    for (int v = 0; v < Vectors; ++v) {
      const __mmask16 mask = v + 1 < Vectors ? static_cast<__mmask16>(0xffff) : last;
      value[v] = load<T>(values.tokens[j], column + v * kLanes, mask);
    }
    for (int r = 0; r < Rows; ++r) {
      const __m512 factor = _mm512_set1_ps(weights[r * weights_pitch + j]);
      for (int v = 0; v < Vectors; ++v) sums[r][v] = _mm512_fmadd_ps(factor, value[v], sums[r][v]);
    }
  }
  for (int r = 0; r < Rows; ++r) {
    for (int v = 0; v < Vectors; ++v) {
      _mm512_storeu_ps(out + r * values.pitch + column + v * kLanes, sums[r][v]);
    }
  }
}

inline void add_rows(const InPlace& values, const float* weights, std::int64_t weights_pitch,
                     float* out) {
  with_dtype(values.dtype, [&]<DType T> {
    in_fours(values.rows, [&]<int Rows>(std::int64_t r) {
      const float* w = weights + r * weights_pitch;
      float* o = out + r * values.pitch;
      const std::int64_t end = padded(values.width);
      std::int64_t c = 0;
      for (; c + 4 * kLanes <= end; c += 4 * kLanes) {
        add_columns<T, Rows, 4>(values, c, w, weights_pitch, o, c == 0 && r == 0);
      }
      for (; c < end; c += kLanes) {
        add_columns<T, Rows, 1>(values, c, w, weights_pitch, o, c == 0 && r == 0);
      }
    });
  });
}

}  // namespace
}  // namespace octavo
