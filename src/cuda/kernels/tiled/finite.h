// A hidden value may be infinite or NaN, and then 0 times it is not 0.
#pragma once

#include "common/elements.h"
#include "tiled/config.h"

namespace octavo::cuda {

// Exponents of all ones, or bytes where only all ones are NaN: adding one in the last place to what
// the mask leaves carries into the sign's bit.
inline constexpr unsigned kExponents = kKvBytes == 2
                                           ? (kHalf == Half::bf16 ? 0x7f807f80u : 0x7c007c00u)
                                       : kFp8 == Fp8::e5m2 ? 0x7c7c7c7cu
                                                           : 0x7f7f7f7fu;
inline constexpr unsigned kSigns = kKvBytes == 2 ? 0x80008000u : 0x80808080u;
inline constexpr unsigned kCarry = kKvBytes == 2 ? (kHalf == Half::bf16 ? 0x00800080u : 0x04000400u)
                                   : kFp8 == Fp8::e5m2 ? 0x04040404u
                                                       : 0x01010101u;

/// Has one of kSigns where one of sixteen bytes' elements is infinite or NaN.
__device__ inline unsigned carries_of(uint4 words) {
  return ((words.x & kExponents) + kCarry) | ((words.y & kExponents) + kCarry) |
         ((words.z & kExponents) + kCarry) | ((words.w & kExponents) + kCarry);
}

/// The elements of a register of V, 0 for those that are infinite or NaN.
__device__ inline unsigned without_specials(unsigned elements) {
  constexpr int kBits = 8 * kKvBytes;
  const unsigned special = ((elements & kExponents) + kCarry) & kSigns;
  return elements & ~((special >> (kBits - 1)) * ((1u << kBits) - 1));
}

/// An element of V, if it is infinite or NaN; else 0.
__device__ inline float special_value(const unsigned char* at) {
  if constexpr (kKvBytes == 1) {
    const float value = kFp8 == Fp8::e5m2 ? from_e5m2(*at) : from_e4m3(*at);
    return isfinite(value) ? 0.0f : value;
  } else {
    const unsigned bits = *reinterpret_cast<const unsigned short*>(at);
    const float value = kHalf == Half::bf16 ? from_bf16(bits) : from_f16(bits);
    return isfinite(value) ? 0.0f : value;
  }
}

}  // namespace octavo::cuda
