#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "octavo/dtype.h"

namespace octavo {

constexpr float from_bf16(std::uint16_t bits) {
  return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16);
}

/// Shifts the half's exponent into place and scales by 2^112, which also makes subnormals right.
constexpr float from_f16(std::uint16_t bits) {
  const std::uint32_t magnitude = static_cast<std::uint32_t>(bits & 0x7fffu) << 13;
  const float finite = std::bit_cast<float>(magnitude) * 0x1p112f;
  const std::uint32_t special = magnitude | 0x7f800000u;
  const std::uint32_t value =
      magnitude >= 0x0f800000u ? special : std::bit_cast<std::uint32_t>(finite);
  return std::bit_cast<float>(value | static_cast<std::uint32_t>(bits & 0x8000u) << 16);
}

/// e5m2 is the upper byte of a half.
constexpr float from_e5m2(std::uint8_t bits) {
  return from_f16(static_cast<std::uint16_t>(bits << 8));
}

constexpr float from_e4m3(std::uint8_t bits) {
  const std::uint32_t magnitude = static_cast<std::uint32_t>(bits & 0x7fu) << 20;
  const std::uint32_t finite =
      std::bit_cast<std::uint32_t>(std::bit_cast<float>(magnitude) * 0x1p120f);
  const std::uint32_t value = (bits & 0x7f) == 0x7f ? 0x7fc00000u : finite;
  return std::bit_cast<float>(value | static_cast<std::uint32_t>(bits & 0x80u) << 24);
}

/// Bits of a magnitude in a small format with `Mantissa` fraction bits and the smallest normal
/// number 2^MinExponent: rounded to nearest, ties to even, without a bound above.
template <int Mantissa, int MinExponent>
std::uint32_t encode_magnitude(float magnitude) {
  // Below the smallest normal number the format's step is fixed. It is the last place of kStep's
  // significand, so the sum rounds to it.
  constexpr float kStep =
      std::bit_cast<float>(static_cast<std::uint32_t>(MinExponent - Mantissa + 23 + 127) << 23);
  constexpr float kSmallestNormal =
      std::bit_cast<float>(static_cast<std::uint32_t>(MinExponent + 127) << 23);
  constexpr int kDropped = 23 - Mantissa;
  const std::uint32_t subnormal =
      std::bit_cast<std::uint32_t>(magnitude + kStep) - std::bit_cast<std::uint32_t>(kStep);
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(magnitude);
  const std::uint32_t half = (1u << (kDropped - 1)) - 1 + (bits >> kDropped & 1);
  const std::uint32_t normal =
      ((bits + half) >> kDropped) - (static_cast<std::uint32_t>(MinExponent + 126) << Mantissa);
  return magnitude < kSmallestNormal ? subnormal : normal;
}

inline std::uint16_t to_bf16(float value) {
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
  return static_cast<std::uint16_t>(value != value ? bits >> 16 | 0x40 : rounded);
}

inline std::uint16_t to_f16(float value) {
  const std::uint32_t sign = std::bit_cast<std::uint32_t>(value) >> 16 & 0x8000u;
  const float magnitude = std::fabs(value);
  const std::uint32_t rounded = std::min(encode_magnitude<10, -14>(magnitude), 0x7c00u);
  return static_cast<std::uint16_t>(sign | (magnitude != magnitude ? 0x7e00u : rounded));
}

/// The fp8 formats saturate to their largest finite value.
template <int Mantissa, int MinExponent>
std::uint8_t to_fp8(float value, float largest, std::uint32_t nan) {
  const std::uint32_t sign = std::bit_cast<std::uint32_t>(value) >> 24 & 0x80u;
  const float magnitude = std::fabs(value);
  const float clamped = magnitude > largest ? largest : magnitude;
  const std::uint32_t rounded = encode_magnitude<Mantissa, MinExponent>(clamped);
  return static_cast<std::uint8_t>(sign | (magnitude != magnitude ? nan : rounded));
}

inline std::uint8_t to_e4m3(float value) { return to_fp8<3, -6>(value, 448.0f, 0x7f); }
inline std::uint8_t to_e5m2(float value) { return to_fp8<2, -14>(value, 57344.0f, 0x7f); }

/// Calls body.operator()<T>() for the dtype.
template <typename Body>
[[gnu::always_inline]] inline void with_dtype(DType dtype, const Body& body) {
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

/// `count` elements of a dtype, none if it is negative, with zeros after them in `whole`.
inline const std::byte* fill_with_zeros(DType dtype, const std::byte* source, std::int64_t count,
                                        std::byte* whole, std::size_t size) {
  std::memset(whole, 0, size);
  if (count > 0) std::memcpy(whole, source, static_cast<std::size_t>(count) * size_of(dtype));
  return whole;
}

// The loops below are inlined, so that a kernel's own instruction set compiles them.

template <typename Bits, typename Convert>
[[gnu::always_inline]] inline void load_with(const void* source, float* target, std::int64_t count,
                                             Convert convert) {
  const Bits* bits = static_cast<const Bits*>(source);
  for (std::int64_t i = 0; i < count; ++i) target[i] = convert(bits[i]);
}

/// Reads `count` elements of a dtype as floats.
[[gnu::always_inline]] inline void load_floats(DType dtype, const void* source, float* target,
                                               std::int64_t count) {
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
[[gnu::always_inline]] inline void store_with(void* target, const float* source, std::int64_t count,
                                              Convert convert) {
  Bits* bits = static_cast<Bits*>(target);
  for (std::int64_t i = 0; i < count; ++i) bits[i] = convert(source[i]);
}

/// Writes `count` floats as a dtype, rounded to nearest even.
[[gnu::always_inline]] inline void store_floats(DType dtype, void* target, const float* source,
                                                std::int64_t count) {
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
