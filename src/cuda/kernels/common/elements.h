// Elements of every dtype to floats and back, in integer arithmetic that every architecture has.
// Kernels that convert in their inner loops use instructions instead, see ptx/.
#pragma once

#include "common/params.h"

namespace octavo::cuda {

/// The numbers of octavo::DType.
enum class Type : int32_t { f32, f16, bf16, e4m3, e5m2 };

__device__ inline float infinity() { return __int_as_float(0x7f800000); }

/// Shifts the half's exponent into place and scales by 2^112, which also makes subnormals right.
__device__ inline float from_f16(unsigned bits) {
  const unsigned magnitude = (bits & 0x7fffu) << 13;
  const unsigned finite = __float_as_uint(__uint_as_float(magnitude) * 0x1p112f);
  const unsigned value = magnitude >= 0x0f800000u ? magnitude | 0x7f800000u : finite;
  return __uint_as_float(value | (bits & 0x8000u) << 16);
}

__device__ inline float from_bf16(unsigned bits) { return __uint_as_float(bits << 16); }

/// e5m2 is the upper byte of a half.
__device__ inline float from_e5m2(unsigned bits) { return from_f16(bits << 8); }

__device__ inline float from_e4m3(unsigned bits) {
  const unsigned finite = __float_as_uint(__uint_as_float((bits & 0x7fu) << 20) * 0x1p120f);
  const unsigned value = (bits & 0x7fu) == 0x7fu ? 0x7fc00000u : finite;
  return __uint_as_float(value | (bits & 0x80u) << 24);
}

/// Bits of a magnitude in a small format with `Mantissa` fraction bits and the smallest normal
/// number 2^MinExponent: rounded to nearest, ties to even, without a bound above.
template <int Mantissa, int MinExponent>
__device__ inline unsigned encode_magnitude(float magnitude) {
  // Below the smallest normal number the format's step is fixed. It is the last place of kStep's
  // significand, so the sum rounds to it.
  constexpr unsigned kStep = static_cast<unsigned>(MinExponent - Mantissa + 23 + 127) << 23;
  constexpr unsigned kSmallestNormal = static_cast<unsigned>(MinExponent + 127) << 23;
  constexpr int kDropped = 23 - Mantissa;
  const unsigned subnormal = __float_as_uint(magnitude + __uint_as_float(kStep)) - kStep;
  const unsigned bits = __float_as_uint(magnitude);
  const unsigned half = (1u << (kDropped - 1)) - 1 + (bits >> kDropped & 1);
  const unsigned normal =
      ((bits + half) >> kDropped) - (static_cast<unsigned>(MinExponent + 126) << Mantissa);
  return bits < kSmallestNormal ? subnormal : normal;
}

__device__ inline unsigned to_f16(float value) {
  const float magnitude = fabsf(value);
  const unsigned rounded = min(encode_magnitude<10, -14>(magnitude), 0x7c00u);
  return (__float_as_uint(value) >> 16 & 0x8000u) | (isnan(value) ? 0x7e00u : rounded);
}

__device__ inline unsigned to_bf16(float value) {
  const unsigned bits = __float_as_uint(value);
  const unsigned rounded = (bits + 0x7fffu + (bits >> 16 & 1)) >> 16;
  return isnan(value) ? bits >> 16 | 0x40u : rounded;
}

/// The fp8 formats saturate to their largest finite value; both have NaN at 0x7f.
template <int Mantissa, int MinExponent>
__device__ inline unsigned to_fp8(float value, float largest) {
  const unsigned rounded = encode_magnitude<Mantissa, MinExponent>(fminf(fabsf(value), largest));
  return (__float_as_uint(value) >> 24 & 0x80u) | (isnan(value) ? 0x7fu : rounded);
}

__device__ inline unsigned to_e4m3(float value) { return to_fp8<3, -6>(value, 448.0f); }
__device__ inline unsigned to_e5m2(float value) { return to_fp8<2, -14>(value, 57344.0f); }

__device__ inline float load(Type type, const void* data, int64_t index) {
  switch (type) {
    case Type::f32:
      return static_cast<const float*>(data)[index];
    case Type::f16:
      return from_f16(static_cast<const unsigned short*>(data)[index]);
    case Type::bf16:
      return from_bf16(static_cast<const unsigned short*>(data)[index]);
    case Type::e4m3:
      return from_e4m3(static_cast<const unsigned char*>(data)[index]);
    case Type::e5m2:
      return from_e5m2(static_cast<const unsigned char*>(data)[index]);
  }
  return 0;
}

/// Rounds to nearest even; fp8 saturates, f16 and bf16 overflow to infinity.
__device__ inline void store(Type type, void* data, int64_t index, float value) {
  switch (type) {
    case Type::f32:
      static_cast<float*>(data)[index] = value;
      break;
    case Type::f16:
      static_cast<unsigned short*>(data)[index] = static_cast<unsigned short>(to_f16(value));
      break;
    case Type::bf16:
      static_cast<unsigned short*>(data)[index] = static_cast<unsigned short>(to_bf16(value));
      break;
    case Type::e4m3:
      static_cast<unsigned char*>(data)[index] = static_cast<unsigned char>(to_e4m3(value));
      break;
    case Type::e5m2:
      static_cast<unsigned char*>(data)[index] = static_cast<unsigned char>(to_e5m2(value));
      break;
  }
}

}  // namespace octavo::cuda
