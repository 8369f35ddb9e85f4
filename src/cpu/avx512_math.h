// TileMath in AVX-512. avx512.cpp and avx512_bf16.cpp include this file, each with its own target
// flags; everything in it has internal linkage, so that neither gets the other's code.
//
// Products are fused, so the bits differ from the portable kernel's. They still depend only on the
// order of keys and dims: the sums of a row never see how many rows or columns a tile has.
#pragma once

#include <algorithm>
#include <cstring>
#include <limits>

#include "cpu/avx512_in_place.h"
#include "cpu/avx512_load.h"
#include "cpu/convert.h"
#include "cpu/tile_math.h"

namespace octavo {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kLog2e = 1.44269504f;

/// Two vectors of floats as one of pairs of bf16, the first below.
template <typename Vector>
__m512i to_pairs(Vector low, Vector high) {
  return (__m512i)_mm512_cvtne2ps_pbh(high, low);
}

/// Words [index, index + 16) of a row.
template <DType T, bool kPairs>
__m512i load_words(const std::byte* row, std::int64_t index, std::int64_t elements) {
  if (row == nullptr) return _mm512_setzero_si512();
  if constexpr (!kPairs) {
    return _mm512_castps_si512(load<T>(row, index, first_lanes(elements - index)));
  } else {
    const std::int64_t rest = elements - 2 * index;
    if constexpr (T == DType::bf16) {
      const __mmask32 mask = rest >= 32 ? ~0u : (1u << std::max<std::int64_t>(0, rest)) - 1;
      return _mm512_maskz_loadu_epi16(mask, row + 4 * index);
    } else {  // pairs of evens and odds would need a shuffle: convert two halves, then put in order
      const __m512 low = load<T>(row, 2 * index, first_lanes(rest));
      const __m512 high = load<T>(row, 2 * index + kLanes, first_lanes(rest - kLanes));
      return to_pairs(low, high);
    }
  }
}

template <bool kPairs>
void load_query(DType dtype, const std::byte* row, std::int64_t d, float* target) {
  with_dtype(dtype, [&]<DType T> {
    const std::int64_t words = kPairs ? (d + 1) / 2 : d;
    for (std::int64_t w = 0; w < padded(words); w += kLanes) {
      _mm512_storeu_si512(target + w, load_words<T, kPairs>(row, w, d));
    }
  });
}

/// target [16, pitch] = the transpose of 16 rows of 16 words.
inline void transpose(__m512i* rows, float* target, std::int64_t pitch) {
  __m512i pairs[16];
  for (int i = 0; i < 16; i += 2) {
    pairs[i] = _mm512_unpacklo_epi32(rows[i], rows[i + 1]);
    pairs[i + 1] = _mm512_unpackhi_epi32(rows[i], rows[i + 1]);
  }
  for (int i = 0; i < 16; i += 4) {  // rows[i + l]: in each quarter, word l of four rows
    rows[i] = _mm512_unpacklo_epi64(pairs[i], pairs[i + 2]);
    rows[i + 1] = _mm512_unpackhi_epi64(pairs[i], pairs[i + 2]);
    rows[i + 2] = _mm512_unpacklo_epi64(pairs[i + 1], pairs[i + 3]);
    rows[i + 3] = _mm512_unpackhi_epi64(pairs[i + 1], pairs[i + 3]);
  }
  for (int l = 0; l < 4; ++l) {
    const __m512i a = _mm512_shuffle_i32x4(rows[l], rows[4 + l], 0x88);
    const __m512i b = _mm512_shuffle_i32x4(rows[8 + l], rows[12 + l], 0x88);
    const __m512i c = _mm512_shuffle_i32x4(rows[l], rows[4 + l], 0xdd);
    const __m512i e = _mm512_shuffle_i32x4(rows[8 + l], rows[12 + l], 0xdd);
    _mm512_storeu_si512(target + l * pitch, _mm512_shuffle_i32x4(a, b, 0x88));
    _mm512_storeu_si512(target + (8 + l) * pitch, _mm512_shuffle_i32x4(a, b, 0xdd));
    _mm512_storeu_si512(target + (4 + l) * pitch, _mm512_shuffle_i32x4(c, e, 0x88));
    _mm512_storeu_si512(target + (12 + l) * pitch, _mm512_shuffle_i32x4(c, e, 0xdd));
  }
}

template <bool kPairs, std::int64_t kTile>
void load_keys(DType dtype, const std::byte* const* keys, std::int64_t count, std::int64_t d,
               float*, float* target) {
  const std::int64_t words = kPairs ? (d + 1) / 2 : d;
  const std::int64_t bytes = d * static_cast<std::int64_t>(size_of(dtype));
  with_dtype(dtype, [&]<DType T> {
    for (std::int64_t j = 0; j < count; j += kLanes) {
      for (std::int64_t i = j; i < std::min(j + kLanes, count); ++i) fetch(keys[i + kAhead], bytes);
      for (std::int64_t w = 0; w < words; w += kLanes) {
        __m512i rows[kLanes];
        for (int i = 0; i < kLanes; ++i) {
          rows[i] = load_words<T, kPairs>(j + i < count ? keys[j + i] : nullptr, w, d);
        }
        transpose(rows, target + w * kTile + j, kTile);
      }
    }
  });
}

template <DType T>
__m512 load_or_zero(const std::byte* row, std::int64_t index, std::int64_t width) {
  if (row == nullptr) return _mm512_setzero_ps();
  return load<T>(row, index, first_lanes(width - index));
}

/// `kDepthStep`: what follows is zeros, up to a multiple of so many words.
template <bool kPairs, std::int64_t kDepthStep>
void load_values(DType dtype, const std::byte* const* values, std::int64_t count, std::int64_t dv,
                 float* target) {
  constexpr std::int64_t kStep = kPairs ? 2 : 1;
  const std::int64_t bytes = dv * static_cast<std::int64_t>(size_of(dtype));
  with_dtype(dtype, [&]<DType T> {
    for (std::int64_t j = 0; j < count; j += kStep, target += padded(dv)) {
      for (std::int64_t i = j; i < std::min(j + kStep, count); ++i)
        fetch(values[i + kAhead], bytes);
      for (std::int64_t c = 0; c < dv; c += kLanes) {
        const __m512 first = load_or_zero<T>(values[j], c, dv);
        if constexpr (kPairs) {  // exact: the upper halves are bf16
          const std::byte* next = j + 1 < count ? values[j + 1] : nullptr;
          const __m512i upper = _mm512_castps_si512(load_or_zero<T>(next, c, dv));
          const __m512i lower = _mm512_srli_epi32(_mm512_castps_si512(first), 16);
          _mm512_storeu_si512(target + c, _mm512_or_si512(lower, upper));
        } else {
          _mm512_storeu_ps(target + c, first);
        }
      }
    }
  });
  const std::int64_t words = (count + kStep - 1) / kStep;
  const std::int64_t more = (kDepthStep - words % kDepthStep) % kDepthStep;
  std::fill_n(target, more * padded(dv), 0.0f);
}

template <bool kPairs>
bool all_finite(const float* values, std::int64_t words) {
  const __m512i upper = _mm512_set1_epi32(0x7f800000);
  const __m512i lower = _mm512_set1_epi32(0x7f80);
  for (std::int64_t i = 0; i < words; i += kLanes) {
    const __m512i x = _mm512_loadu_si512(values + i);
    __mmask16 special = _mm512_cmpeq_epi32_mask(_mm512_and_si512(x, upper), upper);
    if constexpr (kPairs) special |= _mm512_cmpeq_epi32_mask(_mm512_and_si512(x, lower), lower);
    if (special != 0) return false;
  }
  return true;
}

/// sum + a . b, word by word.
template <bool kPairs, typename Words>
__m512 multiply_add(__m512 sum, Words a, Words b) {
  if constexpr (kPairs) {
    return _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)b);
  } else {
    return _mm512_fmadd_ps(_mm512_castsi512_ps(a), _mm512_castsi512_ps(b), sum);
  }
}

template <bool kPairs, int Rows, int Vectors>
[[gnu::noinline]] void multiply_block(const Product& p, std::int64_t row, std::int64_t column) {
  const float* a = p.a + row * p.lda;
  const float* b = p.b + column;
  float* c = p.c + row * p.ldc + column;
  const std::int64_t lda = p.lda;
  const std::int64_t ldb = p.ldb;
  __m512 sums[Rows][Vectors];
  for (int r = 0; r < Rows; ++r) {
    for (int v = 0; v < Vectors; ++v) {
      sums[r][v] = p.accumulate ? _mm512_loadu_ps(c + r * p.ldc + v * kLanes) : _mm512_setzero_ps();
    }
  }
  for (std::int64_t k = 0; k < p.depth; ++k, b += ldb) {
    __m512i right[Vectors];
    for (int v = 0; v < Vectors; ++v) right[v] = _mm512_loadu_si512(b + v * kLanes);
    for (int r = 0; r < Rows; ++r) {
      std::int32_t word;
      std::memcpy(&word, a + r * lda + k, sizeof word);
      const __m512i left = _mm512_set1_epi32(word);
      for (int v = 0; v < Vectors; ++v) {
        sums[r][v] = multiply_add<kPairs>(sums[r][v], left, right[v]);
      }
    }
  }
  for (int r = 0; r < Rows; ++r) {
    for (int v = 0; v < Vectors; ++v) _mm512_storeu_ps(c + r * p.ldc + v * kLanes, sums[r][v]);
  }
}

template <bool kPairs, int Rows, int Vectors>
void multiply_last_rows(const Product& p, std::int64_t row, std::int64_t column) {
  if constexpr (Rows > 0) {
    if (p.rows - row == Rows) {
      multiply_block<kPairs, Rows, Vectors>(p, row, column);
    } else {
      multiply_last_rows<kPairs, Rows - 1, Vectors>(p, row, column);
    }
  }
}

/// All rows of a few columns, so that these columns of B stay in the nearest cache.
template <bool kPairs, int Vectors>
void multiply_columns(const Product& p, std::int64_t column) {
  constexpr int kRows = Vectors == 4 ? 6 : 8;
  std::int64_t row = 0;
  for (; row + kRows <= p.rows; row += kRows)
    multiply_block<kPairs, kRows, Vectors>(p, row, column);
  multiply_last_rows<kPairs, kRows - 1, Vectors>(p, row, column);
}

template <bool kPairs>
void multiply(const Product& p) {
  std::int64_t column = 0;
  for (; column + 4 * kLanes <= p.columns; column += 4 * kLanes) {
    multiply_columns<kPairs, 4>(p, column);
  }
  for (; column + 2 * kLanes <= p.columns; column += 2 * kLanes) {
    multiply_columns<kPairs, 2>(p, column);
  }
  if (column < p.columns) multiply_columns<kPairs, 1>(p, column);
}

/// 2^x for x <= 0; exactly 1 at 0. Polynomials of least relative error on [-1/2, 1/2]: 1e-7, and
/// 3e-6 where the result is rounded to bf16.
template <bool kCoarse>
__m512 exp2_negative(__m512 x) {
  const auto constant = [](float value) { return _mm512_set1_ps(value); };
  x = _mm512_max_ps(constant(-200.0f), x);  // NaN stays
  const __m512 n = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  const __m512 f = _mm512_sub_ps(x, n);
  __m512 y;
  if constexpr (kCoarse) {
    y = _mm512_fmadd_ps(constant(9.58286e-3f), f, constant(5.590643e-2f));
    y = _mm512_fmadd_ps(y, f, constant(2.4024099e-1f));
    y = _mm512_fmadd_ps(y, f, constant(6.9312419e-1f));
  } else {
    y = _mm512_fmadd_ps(constant(1.32647e-3f), f, constant(9.67151e-3f));
    y = _mm512_fmadd_ps(y, f, constant(5.550734e-2f));
    y = _mm512_fmadd_ps(y, f, constant(2.4022242e-1f));
    y = _mm512_fmadd_ps(y, f, constant(6.9314698e-1f));
  }
  y = _mm512_fmadd_ps(y, f, constant(1.0f));
  return _mm512_scalef_ps(y, n);
}

inline __m512 tanh(__m512 x) {
  const __m512 one = _mm512_set1_ps(1.0f);
  const __m512 magnitude = _mm512_abs_ps(x);
  const __m512 e = exp2_negative<false>(_mm512_mul_ps(magnitude, _mm512_set1_ps(-2 * kLog2e)));
  const __m512 t = _mm512_div_ps(_mm512_sub_ps(one, e), _mm512_add_ps(one, e));
  const __m512 sign = _mm512_and_ps(x, _mm512_set1_ps(-0.0f));
  return _mm512_or_ps(t, sign);
}

/// A dot product as a logit in units of log2. `j` counts keys in the tile.
inline __m512 to_logit(const Logit& logit, const SoftmaxRow& row, __m512 dot, std::int64_t j) {
  if (logit.cap == 0 && !logit.alibi) {
    return _mm512_mul_ps(dot, _mm512_set1_ps(logit.factor * kLog2e));
  }
  __m512 x = _mm512_mul_ps(dot, _mm512_set1_ps(logit.factor));
  if (logit.cap != 0) {
    const __m512 cap = _mm512_set1_ps(logit.cap);
    x = _mm512_mul_ps(cap, tanh(_mm512_div_ps(x, cap)));
  }
  if (logit.alibi) {
    const __m512i lanes = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    const __m512i away =
        _mm512_add_epi32(lanes, _mm512_set1_epi32(static_cast<std::int32_t>(row.distance + j)));
    x = _mm512_fmadd_ps(_mm512_set1_ps(row.slope), _mm512_cvtepi32_ps(away), x);
  }
  return _mm512_mul_ps(x, _mm512_set1_ps(kLog2e));
}

template <bool kPairs, typename Vector>
void store_weights(float* scores, std::int64_t j, Vector weights) {
  if constexpr (kPairs) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(reinterpret_cast<std::uint16_t*>(scores) + j),
                        (__m256i)_mm512_cvtneps_pbh(weights));
  } else {
    _mm512_storeu_ps(scores + j, weights);
  }
}

/// Zeros after the weights, up to a multiple of so many words.
template <bool kPairs, std::int64_t kDepthStep>
void pad_weights(const SoftmaxRow& row) {
  if constexpr (kPairs && kDepthStep > 1) {
    for (std::int64_t j = row.columns; j % (2 * kDepthStep) != 0; j += kLanes) {
      store_weights<kPairs>(row.scores, j, _mm512_setzero_ps());
    }
  }
}

/// Only -inf and NaN so far: weights are 0 where the score is -inf.
template <bool kPairs>
[[gnu::noinline]] void soften_without_largest(const SoftmaxRow& row) {
  for (std::int64_t j = 0; j < row.columns; j += kLanes) {
    const __m512 x = _mm512_loadu_ps(row.scores + j);
    const __mmask16 keep = _mm512_cmp_ps_mask(x, _mm512_set1_ps(-kInfinity), _CMP_NEQ_UQ);
    const __m512 weights = _mm512_maskz_mov_ps(keep, x);
    *row.sum += _mm512_reduce_add_ps(weights);
    store_weights<kPairs>(row.scores, j, weights);
  }
}

template <bool kPairs, std::int64_t kDepthStep>
void soften(const Logit& logit, const SoftmaxRow& row) {
  float* scores = row.scores;
  __m512 most = _mm512_set1_ps(*row.largest);
  for (std::int64_t j = 0; j < row.columns; j += kLanes) {
    __m512 x = to_logit(logit, row, _mm512_loadu_ps(scores + j), j);
    if (row.visible != nullptr) {
      const __m512i visible = _mm512_loadu_si512(row.visible + j);
      x = _mm512_mask_mov_ps(_mm512_set1_ps(-kInfinity), _mm512_test_epi32_mask(visible, visible),
                             x);
    }
    most = _mm512_max_ps(x, most);  // never NaN: it would take the second
    _mm512_storeu_ps(scores + j, x);
  }
  const float largest = _mm512_reduce_max_ps(most);
  if (largest == -kInfinity) {
    soften_without_largest<kPairs>(row);
    return pad_weights<kPairs, kDepthStep>(row);
  }

  __m512 sums = _mm512_setzero_ps();
  for (std::int64_t j = 0; j < row.columns; j += kLanes) {
    const __m512 x = _mm512_sub_ps(_mm512_loadu_ps(scores + j), _mm512_set1_ps(largest));
    const __m512 weights = exp2_negative<kPairs>(x);
    sums = _mm512_add_ps(sums, weights);
    store_weights<kPairs>(scores, j, weights);
  }
  pad_weights<kPairs, kDepthStep>(row);
  const float sum = _mm512_reduce_add_ps(sums);
  if (*row.largest == largest) {
    *row.sum += sum;
    return;
  }
  const __m512 decay = exp2_negative<false>(_mm512_set1_ps(*row.largest - largest));
  *row.sum = *row.sum * _mm512_cvtss_f32(decay) + sum;
  *row.largest = largest;
  // The product may be -0; adding 0 makes it 0.
  for (std::int64_t c = 0; c < row.width; c += kLanes) {
    const __m512 out = _mm512_fmadd_ps(_mm512_loadu_ps(row.out + c), decay, _mm512_setzero_ps());
    _mm512_storeu_ps(row.out + c, out);
  }
}

inline void combine(float* total, float before, const float* part, float after,
                    std::int64_t width) {
  for (std::int64_t c = 0; c < width; c += kLanes) {
    const __m512 old = _mm512_mul_ps(_mm512_loadu_ps(total + c), _mm512_set1_ps(before));
    const __m512 sum = _mm512_fmadd_ps(_mm512_loadu_ps(part + c), _mm512_set1_ps(after), old);
    _mm512_storeu_ps(total + c, sum);
  }
}

/// Weight `j` of a row.
template <bool kPairs>
float weight(const float* weights, std::int64_t j) {
  if constexpr (kPairs) {
    return from_bf16(reinterpret_cast<const std::uint16_t*>(weights)[j]);
  } else {
    return weights[j];
  }
}

template <bool kPairs>
void add_visible(const float* weights, const std::int32_t* visible, std::int64_t keys,
                 const float* values, float* out, std::int64_t width) {
  for (std::int64_t j = 0; j < keys; ++j) {
    if (visible[j] == 0) continue;
    const __m512 factor = _mm512_set1_ps(weight<kPairs>(weights, j));
    for (std::int64_t c = 0; c < width; c += kLanes) {
      __m512i words = _mm512_loadu_si512(values + (kPairs ? j / 2 : j) * width + c);
      if constexpr (kPairs) {
        words = j % 2 == 0 ? _mm512_slli_epi32(words, 16)
                           : _mm512_and_si512(words, _mm512_set1_epi32(-65536));
      }
      const __m512 sum = _mm512_loadu_ps(out + c);
      _mm512_storeu_ps(out + c, _mm512_fmadd_ps(factor, _mm512_castsi512_ps(words), sum));
    }
  }
}

inline void store_row(DType dtype, void* target, const float* source, std::int64_t count) {
  store_floats(dtype, target, source, count);
}

/// `kDepthStep`: the words that `multiply` takes at once.
template <bool kPairs, std::int64_t kTile, std::int64_t kDepthStep = 1>
constexpr TileMath make_math(double multiply_adds_per_us,
                             void (*multiply_words)(const Product&) = multiply<kPairs>) {
  return {kTile,
          kPairs ? 2 : 1,
          load_query<kPairs>,
          load_keys<kPairs, kTile>,
          load_values<kPairs, kDepthStep>,
          all_finite<kPairs>,
          multiply_words,
          add_visible<kPairs>,
          soften<kPairs, kDepthStep>,
          combine,
          store_row,
          multiply_adds_per_us,
          load_query<false>,
          score_rows,
          soften<false, 1>,
          rows_finite,
          add_rows};
}

}  // namespace
}  // namespace octavo
