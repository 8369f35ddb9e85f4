// The operations of vector.h in AVX-512 F, BW, DQ and VL; and pairs of bf16 in AVX512_BF16.
#pragma once

#include <immintrin.h>

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>

#include "cpu/convert.h"
#include "octavo/dtype.h"

namespace octavo {
namespace {

using Vector = __m512;
constexpr int kLanes = 16;
constexpr int kMostVectors = 2;  // of a row in a block of sums
constexpr int kBlockRows = 8;
constexpr int kRowsInPlace = 4;

inline Vector load(const float* at) { return _mm512_loadu_ps(at); }
inline void store(float* at, Vector x) { _mm512_storeu_ps(at, x); }
inline Vector broadcast(float x) { return _mm512_set1_ps(x); }
inline Vector fma(Vector a, Vector b, Vector c) { return _mm512_fmadd_ps(a, b, c); }
inline Vector most(Vector a, Vector b) { return _mm512_max_ps(a, b); }
inline float largest_lane(Vector x) { return _mm512_reduce_max_ps(x); }
/// Of each of four vectors: halves, then their halves, and so on.
template <typename Combine>
Four reduce_four(const Vector* x, const Combine& combine) {
  const auto halves = [&](Vector a, Vector b) {
    return combine(_mm512_shuffle_f32x4(a, b, 0x44), _mm512_shuffle_f32x4(a, b, 0xee));
  };
  const Vector ab = halves(x[0], x[1]);
  const Vector cd = halves(x[2], x[3]);
  Vector y = combine(_mm512_shuffle_f32x4(ab, cd, 0x88), _mm512_shuffle_f32x4(ab, cd, 0xdd));
  y = combine(y, _mm512_permute_ps(y, 0x4e));
  y = combine(y, _mm512_permute_ps(y, 0xb1));
  const __m512i first_of_each = _mm512_castsi128_si512(_mm_setr_epi32(0, 4, 8, 12));
  return _mm512_castps512_ps128(_mm512_permutexvar_ps(first_of_each, y));
}
inline Four sums_of_four(const Vector* x) {
  return reduce_four(x, [](Vector a, Vector b) { return a + b; });
}
inline float sum_lanes(Vector x) {
  const Vector same[4] = {x, x, x, x};
  return sums_of_four(same)[0];
}
inline Four largest_of_four(const Vector* x) { return reduce_four(x, most); }

inline __mmask16 first_lanes(std::int64_t count) {
  return count >= kLanes ? 0xffff
                         : static_cast<__mmask16>((1u << std::max<std::int64_t>(0, count)) - 1);
}

template <DType T>
Vector load_as_floats(const std::byte* row, std::int64_t index, std::int64_t end) {
  const std::byte* at = row + index * static_cast<std::int64_t>(size_of(T));
  const __mmask16 mask = first_lanes(end - index);
  if constexpr (T == DType::f32) {
    return _mm512_maskz_loadu_ps(mask, at);
  } else if constexpr (T == DType::f16) {
    return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(mask, at));
  } else if constexpr (T == DType::bf16) {
    const __m512i bits = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, at));
    return _mm512_castsi512_ps(_mm512_slli_epi32(bits, 16));
  } else if constexpr (T == DType::e5m2) {  // the upper byte of a half
    const __m256i bits = _mm256_cvtepu8_epi16(_mm_maskz_loadu_epi8(mask, at));
    return _mm512_cvtph_ps(_mm256_slli_epi16(bits, 8));
  } else {  // the bits in place of a half's are the value over 256; 1.875 is NaN's
    const __m256i words = _mm256_cvtepi8_epi16(_mm_maskz_loadu_epi8(mask, at));
    const __m256i bits =
        _mm256_and_si256(_mm256_slli_epi16(words, 7), _mm256_set1_epi16(std::int16_t(0xbf80)));
    const __mmask16 nan = _mm256_cmpeq_epi16_mask(_mm256_and_si256(words, _mm256_set1_epi16(0x7f)),
                                                  _mm256_set1_epi16(0x7f));
    const __m512 finite = _mm512_mul_ps(_mm512_cvtph_ps(bits), _mm512_set1_ps(256));
    return _mm512_castsi512_ps(
        _mm512_mask_set1_epi32(_mm512_castps_si512(finite), nan, 0x7fc00000));
  }
}

inline Vector sum_each(const Vector* x) {
  Vector quarters[4];
  for (int i = 0; i < 4; ++i) {
    const Vector* y = x + 4 * i;
    const Vector a = _mm512_unpacklo_ps(y[0], y[1]) + _mm512_unpackhi_ps(y[0], y[1]);
    const Vector b = _mm512_unpacklo_ps(y[2], y[3]) + _mm512_unpackhi_ps(y[2], y[3]);
    const __m512d low = _mm512_unpacklo_pd(_mm512_castps_pd(a), _mm512_castps_pd(b));
    const __m512d high = _mm512_unpackhi_pd(_mm512_castps_pd(a), _mm512_castps_pd(b));
    quarters[i] = _mm512_castpd_ps(low) + _mm512_castpd_ps(high);
  }
  const auto halves = [](Vector a, Vector b) {
    return _mm512_shuffle_f32x4(a, b, 0x44) + _mm512_shuffle_f32x4(a, b, 0xee);
  };
  const Vector a = halves(quarters[0], quarters[1]);
  const Vector b = halves(quarters[2], quarters[3]);
  return _mm512_shuffle_f32x4(a, b, 0x88) + _mm512_shuffle_f32x4(a, b, 0xdd);
}

[[gnu::always_inline]] inline void transpose(const Vector* rows, Vector* columns) {
  __m512i pairs[16];
#pragma GCC unroll 8
  for (int i = 0; i < 16; i += 2) {
    pairs[i] = (__m512i)_mm512_unpacklo_ps(rows[i], rows[i + 1]);
    pairs[i + 1] = (__m512i)_mm512_unpackhi_ps(rows[i], rows[i + 1]);
  }
  __m512i words[16];
#pragma GCC unroll 4
  for (int i = 0; i < 16; i += 4) {  // words[i + l]: in each quarter, word l of four rows
    words[i] = _mm512_unpacklo_epi64(pairs[i], pairs[i + 2]);
    words[i + 1] = _mm512_unpackhi_epi64(pairs[i], pairs[i + 2]);
    words[i + 2] = _mm512_unpacklo_epi64(pairs[i + 1], pairs[i + 3]);
    words[i + 3] = _mm512_unpackhi_epi64(pairs[i + 1], pairs[i + 3]);
  }
#pragma GCC unroll 4
  for (int l = 0; l < 4; ++l) {
    const __m512i a = _mm512_shuffle_i32x4(words[l], words[4 + l], 0x88);
    const __m512i b = _mm512_shuffle_i32x4(words[8 + l], words[12 + l], 0x88);
    const __m512i c = _mm512_shuffle_i32x4(words[l], words[4 + l], 0xdd);
    const __m512i e = _mm512_shuffle_i32x4(words[8 + l], words[12 + l], 0xdd);
    columns[l] = (Vector)_mm512_shuffle_i32x4(a, b, 0x88);
    columns[8 + l] = (Vector)_mm512_shuffle_i32x4(a, b, 0xdd);
    columns[4 + l] = (Vector)_mm512_shuffle_i32x4(c, e, 0x88);
    columns[12 + l] = (Vector)_mm512_shuffle_i32x4(c, e, 0xdd);
  }
}

#if defined(__AVX512BF16__)
/// The bytes of the magnitudes of an fp8 format in bf16, which holds them exactly.
template <float (*decode)(std::uint8_t)>
struct Magnitudes {
  alignas(64) std::uint8_t low[128] = {};
  alignas(64) std::uint8_t high[128] = {};
  constexpr Magnitudes() {
    for (int i = 0; i < 128; ++i) {
      const auto bits = std::bit_cast<std::uint32_t>(decode(static_cast<std::uint8_t>(i)));
      low[i] = static_cast<std::uint8_t>(bits >> 16);
      high[i] = static_cast<std::uint8_t>(bits >> 24);
    }
  }
};

/// 64 bytes of an fp8 format as bf16.
template <float (*decode)(std::uint8_t)>
[[gnu::always_inline]] inline void decode_fp8(__m512i bytes, Vector* two) {
  static constexpr Magnitudes<decode> kMagnitudes;
  const auto look_up = [](__m512i index, const std::uint8_t* table) {
    return _mm512_permutex2var_epi8(_mm512_load_si512(table), index, _mm512_load_si512(table + 64));
  };
  // Of each sixteen bytes, unpacking takes eight into the first vector and eight into the second.
  const __m512i index = _mm512_permutexvar_epi64(_mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7), bytes);
  constexpr int kOrAnd = 0xf8;  // a | b & c
  const __m512i low = look_up(index, kMagnitudes.low);
  const __m512i high = _mm512_ternarylogic_epi32(look_up(index, kMagnitudes.high), index,
                                                 _mm512_set1_epi8(std::int8_t(0x80)), kOrAnd);
  two[0] = _mm512_castsi512_ps(_mm512_unpacklo_epi8(low, high));
  two[1] = _mm512_castsi512_ps(_mm512_unpackhi_epi8(low, high));
}

struct Bf16Pairs {
  static constexpr int kPerWord = 2;

  template <DType T>
  static Vector load(const std::byte* row, std::int64_t word, std::int64_t end) {
    const std::int64_t index = 2 * word;
    if constexpr (T == DType::bf16) {
      return _mm512_castsi512_ps(
          _mm512_maskz_loadu_epi16(first_words(end - index), row + 2 * index));
    } else if constexpr (is_fp8(T)) {
      Vector two[2];
      decode<T>(
          _mm512_castsi256_si512(_mm256_maskz_loadu_epi8(first_words(end - index), row + index)),
          two);
      return two[0];
    } else {
      const Vector low = load_as_floats<T>(row, index, end);
      const Vector high = load_as_floats<T>(row, index + kLanes, end);
      return (Vector)_mm512_cvtne2ps_pbh(high, low);
    }
  }
  template <DType T>
  requires(is_fp8(T)) static void load_two(const std::byte* row, std::int64_t word, Vector* two) {
    decode<T>(_mm512_loadu_si512(row + 2 * word), two);
  }
  static void interleave(Vector first, Vector second, Vector* pairs) {
    std::uint16_t lanes[2][32];
    for (int i = 0; i < 32; ++i) {
      lanes[0][i] = static_cast<std::uint16_t>(i / 2 + i % 2 * 32);
      lanes[1][i] = static_cast<std::uint16_t>(lanes[0][i] + 16);
    }
    for (int half = 0; half < 2; ++half) {
      pairs[half] = _mm512_castsi512_ps(_mm512_permutex2var_epi16(_mm512_castps_si512(first),
                                                                  _mm512_loadu_si512(lanes[half]),
                                                                  _mm512_castps_si512(second)));
    }
  }
  static Vector multiply_add(Vector sum, Vector a, Vector b) {
    return _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)b);
  }
  static void store_rounded(std::uint16_t* at, Vector x) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(at), (__m256i)_mm512_cvtneps_pbh(x));
  }
  static void store_two_rounded(std::uint16_t* at, Vector first, Vector second) {
    _mm512_storeu_si512(at, (__m512i)_mm512_cvtne2ps_pbh(second, first));
  }

 private:
  static __mmask32 first_words(std::int64_t count) {
    return count >= 32 ? ~0u : (1u << std::max<std::int64_t>(0, count)) - 1;
  }
  template <DType T>
  [[gnu::always_inline]] static void decode(__m512i bytes, Vector* two) {
    decode_fp8<T == DType::e4m3 ? from_e4m3 : from_e5m2>(bytes, two);
  }
};
#endif

}  // namespace
}  // namespace octavo
