#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "octavo/dtype.h"

namespace octavo {

inline float from_bf16(std::uint16_t bits) {
  return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16);
}

/// Shifts the half's exponent into place and scales by 2^112, which also makes subnormals right.
inline float from_f16(std::uint16_t bits) {
  const std::uint32_t magnitude = static_cast<std::uint32_t>(bits & 0x7fffu) << 13;
  const float finite = std::bit_cast<float>(magnitude) * 0x1p112f;
  const std::uint32_t special = magnitude | 0x7f800000u;
  const std::uint32_t value =
      magnitude >= 0x0f800000u ? special : std::bit_cast<std::uint32_t>(finite);
  return std::bit_cast<float>(value | static_cast<std::uint32_t>(bits & 0x8000u) << 16);
}

/// e5m2 is the upper byte of a half.
inline float from_e5m2(std::uint8_t bits) {
  return from_f16(static_cast<std::uint16_t>(bits << 8));
}

inline float from_e4m3(std::uint8_t bits) {
  const std::uint32_t magnitude = static_cast<std::uint32_t>(bits & 0x7fu) << 20;
  const std::uint32_t finite =
      std::bit_cast<std::uint32_t>(std::bit_cast<float>(magnitude) * 0x1p120f);
  const std::uint32_t value = (bits & 0x7f) == 0x7f ? 0x7fc00000u : finite;
  return std::bit_cast<float>(value | static_cast<std::uint32_t>(bits & 0x80u) << 24);
}

/// Rounds to the nearest value with `mantissa` fraction bits and smallest normal exponent
/// `min_exponent`, ties to even, without a bound above.
inline float round_to(float value, int mantissa, int min_exponent) {
  int exponent = 0;
  std::frexp(value, &exponent);
  const int step = std::max(exponent - 1, min_exponent) - mantissa;
  return std::ldexp(std::nearbyint(std::ldexp(value, -step)), step);
}

/// Bits of a small float format: sign, exponent with its bias, fraction. `value` is representable.
inline std::uint32_t encode(float value, int mantissa, int min_exponent) {
  const float magnitude = std::fabs(value);
  std::uint32_t bits = 0;
  if (magnitude >= std::ldexp(1.0f, min_exponent)) {
    int exponent = 0;
    const float fraction = std::frexp(magnitude, &exponent);  // in [0.5, 1)
    bits = (static_cast<std::uint32_t>(exponent - min_exponent) << mantissa) +
           static_cast<std::uint32_t>(std::ldexp(fraction * 2 - 1, mantissa));
  } else {
    bits = static_cast<std::uint32_t>(std::ldexp(magnitude, mantissa - min_exponent));
  }
  return bits;
}

inline std::uint16_t to_bf16(float value) {
  std::uint32_t bits = std::bit_cast<std::uint32_t>(value);
  if (std::isnan(value)) return static_cast<std::uint16_t>(bits >> 16 | 0x40);
  bits += 0x7fff + (bits >> 16 & 1);
  return static_cast<std::uint16_t>(bits >> 16);
}

inline std::uint16_t to_f16(float value) {
  const auto sign = static_cast<std::uint16_t>(std::signbit(value) ? 0x8000 : 0);
  if (std::isnan(value)) return sign | 0x7e00;
  const float rounded = std::isinf(value) ? value : round_to(value, 10, -14);
  if (std::fabs(rounded) > 65504.0f) return sign | 0x7c00;
  return static_cast<std::uint16_t>(sign | encode(rounded, 10, -14));
}

/// The fp8 formats saturate to their largest finite value.
inline std::uint8_t to_fp8(float value, int mantissa, int min_exponent, float largest,
                           std::uint8_t nan) {
  const auto sign = static_cast<std::uint8_t>(std::signbit(value) ? 0x80 : 0);
  if (std::isnan(value)) return sign | nan;
  const float clamped = std::clamp(value, -largest, largest);
  return static_cast<std::uint8_t>(
      sign | encode(round_to(clamped, mantissa, min_exponent), mantissa, min_exponent));
}

inline std::uint8_t to_e4m3(float value) { return to_fp8(value, 3, -6, 448.0f, 0x7f); }
inline std::uint8_t to_e5m2(float value) { return to_fp8(value, 2, -14, 57344.0f, 0x7f); }

template <typename Bits, typename Convert>
void load_with(const void* source, float* target, std::int64_t count, Convert convert) {
  const Bits* bits = static_cast<const Bits*>(source);
  for (std::int64_t i = 0; i < count; ++i) target[i] = convert(bits[i]);
}

/// Reads `count` elements of a dtype as floats.
inline void load_floats(DType dtype, const void* source, float* target, std::int64_t count) {
  switch (dtype) {
    case DType::f32:
      std::memcpy(target, source, static_cast<std::size_t>(count) * sizeof(float));
      return;
    case DType::f16:
      return load_with<std::uint16_t>(source, target, count, from_f16);
    case DType::bf16:
      return load_with<std::uint16_t>(source, target, count, from_bf16);
    case DType::e4m3:
      return load_with<std::uint8_t>(source, target, count, from_e4m3);
    case DType::e5m2:
      return load_with<std::uint8_t>(source, target, count, from_e5m2);
  }
}

template <typename Bits, typename Convert>
void store_with(void* target, const float* source, std::int64_t count, Convert convert) {
  Bits* bits = static_cast<Bits*>(target);
  for (std::int64_t i = 0; i < count; ++i) bits[i] = convert(source[i]);
}

/// Writes `count` floats as a dtype, rounded to nearest even.
inline void store_floats(DType dtype, void* target, const float* source, std::int64_t count) {
  switch (dtype) {
    case DType::f32:
      std::memcpy(target, source, static_cast<std::size_t>(count) * sizeof(float));
      return;
    case DType::f16:
      return store_with<std::uint16_t>(target, source, count, to_f16);
    case DType::bf16:
      return store_with<std::uint16_t>(target, source, count, to_bf16);
    case DType::e4m3:
      return store_with<std::uint8_t>(target, source, count, to_e4m3);
    case DType::e5m2:
      return store_with<std::uint8_t>(target, source, count, to_e5m2);
  }
}

}  // namespace octavo
