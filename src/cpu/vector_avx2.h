// The operations of vector.h in AVX2, FMA and F16C.
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

#include "cpu/convert.h"
#include "octavo/dtype.h"

namespace octavo {
namespace {

using Vector = __m256;
constexpr int kLanes = 8;
constexpr int kMostVectors = 2;
constexpr int kBlockRows = 6;
constexpr int kRowsInPlace = 2;

inline Vector load(const float* at) { return _mm256_loadu_ps(at); }
inline void store(float* at, Vector x) { _mm256_storeu_ps(at, x); }
inline Vector broadcast(float x) { return _mm256_set1_ps(x); }
inline Vector fma(Vector a, Vector b, Vector c) { return _mm256_fmadd_ps(a, b, c); }
inline Vector most(Vector a, Vector b) { return _mm256_max_ps(a, b); }
inline float sum_lanes(Vector x) {
  const __m128 four = _mm256_castps256_ps128(x) + _mm256_extractf128_ps(x, 1);
  const __m128 two = four + _mm_movehl_ps(four, four);
  return _mm_cvtss_f32(two + _mm_movehdup_ps(two));
}
inline float largest_lane(Vector x) {
  const __m128 four = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
  const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}
/// Of each of four vectors, in the order of sum_lanes and largest_lane.
template <typename Combine>
Four reduce_four(const Vector* x, const Combine& combine) {
  const auto halves = [&](Vector a, Vector b) {
    return combine(_mm256_permute2f128_ps(a, b, 0x20), _mm256_permute2f128_ps(a, b, 0x31));
  };
  const Vector ab = halves(x[0], x[1]);
  const Vector cd = halves(x[2], x[3]);
  const Vector pairs = combine(_mm256_shuffle_ps(ab, cd, 0x44), _mm256_shuffle_ps(ab, cd, 0xee));
  const Vector acbd =
      combine(_mm256_shuffle_ps(pairs, pairs, 0x88), _mm256_shuffle_ps(pairs, pairs, 0xdd));
  return _mm_unpacklo_ps(_mm256_castps256_ps128(acbd), _mm256_extractf128_ps(acbd, 1));
}
inline Four sums_of_four(const Vector* x) {
  return reduce_four(x, [](Vector a, Vector b) { return a + b; });
}
inline Four largest_of_four(const Vector* x) { return reduce_four(x, most); }

template <DType T>
Vector load_as_floats(const std::byte* row, std::int64_t index, std::int64_t end) {
  alignas(32) std::byte whole[kLanes * sizeof(float)];
  const std::byte* at = row + index * static_cast<std::int64_t>(size_of(T));
  if (end - index < kLanes) at = fill_with_zeros(T, at, end - index, whole, sizeof whole);
  const auto sixteen_bytes = [&] { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(at)); };
  const auto eight_bytes = [&] { return _mm_loadu_si64(at); };
  if constexpr (T == DType::f32) {
    return _mm256_loadu_ps(reinterpret_cast<const float*>(at));
  } else if constexpr (T == DType::f16) {
    return _mm256_cvtph_ps(sixteen_bytes());
  } else if constexpr (T == DType::bf16) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(sixteen_bytes()), 16));
  } else if constexpr (T == DType::e5m2) {  // the upper byte of a half
    return _mm256_cvtph_ps(_mm_slli_epi16(_mm_cvtepu8_epi16(eight_bytes()), 8));
  } else {  // the bits in place of a half's are the value over 256; 1.875 is NaN's
    const __m128i words = _mm_cvtepi8_epi16(eight_bytes());
    const __m128i bits =
        _mm_and_si128(_mm_slli_epi16(words, 7), _mm_set1_epi16(std::int16_t(0xbf80)));
    const Vector halves = _mm256_cvtph_ps(bits);
    const Vector magnitude = _mm256_andnot_ps(broadcast(-0.0f), halves);
    const Vector nan = _mm256_cmp_ps(magnitude, broadcast(1.875f), _CMP_EQ_OQ);
    return _mm256_or_ps(halves * broadcast(256), nan);
  }
}

inline Vector sum_each(const Vector* x) {
  const auto of_four = [](const Vector* y) {
    return _mm256_hadd_ps(_mm256_hadd_ps(y[0], y[1]), _mm256_hadd_ps(y[2], y[3]));
  };
  const Vector a = of_four(x);
  const Vector b = of_four(x + 4);
  return _mm256_permute2f128_ps(a, b, 0x20) + _mm256_permute2f128_ps(a, b, 0x31);
}

[[gnu::always_inline]] inline void transpose(const Vector* rows, Vector* columns) {
  Vector fours[8];  // fours[i + l]: in each half, word l of four rows
  for (int i = 0; i < 8; i += 4) {
    const Vector a = _mm256_unpacklo_ps(rows[i], rows[i + 1]);
    const Vector b = _mm256_unpackhi_ps(rows[i], rows[i + 1]);
    const Vector c = _mm256_unpacklo_ps(rows[i + 2], rows[i + 3]);
    const Vector e = _mm256_unpackhi_ps(rows[i + 2], rows[i + 3]);
    fours[i] = _mm256_shuffle_ps(a, c, 0x44);
    fours[i + 1] = _mm256_shuffle_ps(a, c, 0xee);
    fours[i + 2] = _mm256_shuffle_ps(b, e, 0x44);
    fours[i + 3] = _mm256_shuffle_ps(b, e, 0xee);
  }
  for (int l = 0; l < 4; ++l) {
    columns[l] = _mm256_permute2f128_ps(fours[l], fours[4 + l], 0x20);
    columns[4 + l] = _mm256_permute2f128_ps(fours[l], fours[4 + l], 0x31);
  }
}

}  // namespace
}  // namespace octavo
