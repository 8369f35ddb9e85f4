// Loads of any dtype as vectors of floats, in AVX-512. Internal linkage, as in avx512_math.h.
#pragma once

#include <immintrin.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "octavo/dtype.h"

namespace octavo {
namespace {

constexpr int kLanes = 16;

__mmask16 first_lanes(std::int64_t count) {
  return count >= kLanes ? 0xffff
                         : static_cast<__mmask16>((1u << std::max<std::int64_t>(0, count)) - 1);
}

/// Calls body.operator()<T>() for the dtype.
template <typename Body>
void with_dtype(DType dtype, const Body& body) {
  switch (dtype) {
    case DType::f32:
      return body.template operator()<DType::f32>();
    case DType::f16:
      return body.template operator()<DType::f16>();
    case DType::bf16:
      return body.template operator()<DType::bf16>();
    case DType::e4m3:
      return body.template operator()<DType::e4m3>();
    case DType::e5m2:
      return body.template operator()<DType::e5m2>();
  }
}

/// Elements [index, index + 16) of a row as floats; those outside the mask are 0 and not touched.
template <DType T>
__m512 load(const std::byte* row, std::int64_t index, __mmask16 mask) {
  const std::byte* at = row + index * static_cast<std::int64_t>(size_of(T));
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
  } else {  // the exponent goes into place; the product makes subnormals right too
    const __m512i bits = _mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(mask, at));
    const __m512i low = _mm512_and_si512(bits, _mm512_set1_epi32(0x7f));
    const __m512 magnitude =
        _mm512_mul_ps(_mm512_castsi512_ps(_mm512_slli_epi32(low, 20)), _mm512_set1_ps(0x1p120f));
    const __mmask16 nan = _mm512_cmpeq_epi32_mask(low, _mm512_set1_epi32(0x7f));
    const __m512i sign = _mm512_slli_epi32(_mm512_andnot_si512(_mm512_set1_epi32(0x7f), bits), 24);
    const __m512i value = _mm512_mask_set1_epi32(_mm512_castps_si512(magnitude), nan, 0x7fc00000);
    return _mm512_castsi512_ps(_mm512_or_si512(value, sign));
  }
}

/// Starts to fetch a row that is loaded soon. Always inlined, because GCC drops calls of a function
/// that does nothing but prefetch.
[[gnu::always_inline]] inline void fetch(const std::byte* row, std::int64_t bytes) {
  if (row == nullptr) return;
  for (std::int64_t i = 0; i < bytes; i += 64) {
    _mm_prefetch(reinterpret_cast<const char*>(row) + i, _MM_HINT_T0);
  }
}

}  // namespace
}  // namespace octavo
