// A hidden value may be infinite or NaN, and then 0 times it is not 0.
#pragma once

#include "portable/shared.h"

namespace octavo::cuda {

// Exponents of all ones, or bytes where only all ones are NaN: adding one in the last place to what
// the mask leaves carries into the sign's bit.
inline constexpr unsigned kExponents = kKvBytes == 2             ? (kHalf == Half::bf16 ? 0x7f807f80u
                                                                                        : 0x7c007c00u)
                                       : kFp8 == Fp8::e5m2 ? 0x7c7c7c7cu
                                                                 : 0x7f7f7f7fu;
inline constexpr unsigned kSigns = kKvBytes == 2 ? 0x80008000u : 0x80808080u;
inline constexpr unsigned kCarry = kKvBytes == 2 ? (kHalf == Half::bf16 ? 0x00800080u : 0x04000400u)
                                   : kFp8 == Fp8::e5m2 ? 0x04040404u
                                                           : 0x01010101u;

/// Whether one of this thread's share of a tile of V is infinite or NaN.
__device__ inline bool has_special(const unsigned char* v) {
  constexpr int kChunks = kDv * kKvBytes / 16;
  unsigned carries = 0;
  for (int i = static_cast<int>(threadIdx.x); i < kKeys * kChunks; i += kThreads) {
    const uint4 words =
        *reinterpret_cast<const uint4*>(v + i / kChunks * kVPitch + i % kChunks * 16);
    carries |= (words.x & kExponents) + kCarry;
    carries |= (words.y & kExponents) + kCarry;
    carries |= (words.z & kExponents) + kCarry;
    carries |= (words.w & kExponents) + kCarry;
  }
  return (carries & kSigns) != 0;
}

/// Two numbers of the multiplied type: the finite ones, and 1 where there is +infinity or NaN, or
/// -infinity or NaN.
struct Sorted {
  unsigned finite;
  unsigned plus;
  unsigned minus;
};

__device__ inline Sorted sort_specials(unsigned pair) {
  constexpr unsigned kOne = kHalf == Half::bf16 ? 0x3f80u : 0x3c00u;
  constexpr unsigned kInfinite = kHalf == Half::bf16 ? 0x7f80u : 0x7c00u;
  Sorted sorted{pair, 0, 0};
  for (int shift = 0; shift < 32; shift += 16) {
    const unsigned bits = pair >> shift & 0xffffu;
    const unsigned magnitude = bits & 0x7fffu;
    if (magnitude < kInfinite) continue;
    sorted.finite &= ~(0xffffu << shift);
    if (bits != (kInfinite | 0x8000u)) sorted.plus |= kOne << shift;
    if (bits != kInfinite) sorted.minus |= kOne << shift;
  }
  return sorted;
}

/// 1 for each of two weights that is not 0.
__device__ inline unsigned ones_where_weighted(unsigned pair) {
  constexpr unsigned kOne = kHalf == Half::bf16 ? 0x3f80u : 0x3c00u;
  return ((pair & 0xffffu) != 0 ? kOne : 0) | ((pair >> 16) != 0 ? kOne << 16 : 0);
}

}  // namespace octavo::cuda
