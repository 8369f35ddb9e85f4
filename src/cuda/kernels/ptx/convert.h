// fp8 to 16 bits, two elements of a register at a time, exactly.
#pragma once

#include "ptx/packed.h"

namespace octavo::cuda {

enum class Fp8 { e4m3, e5m2 };

/// Widens two fp8 numbers that stand in the upper bytes of the halves, zeros below them. The bits
/// of the magnitude move to where exponent and fraction belong; a product with a power of two then
/// makes up for the smaller bias, and makes subnormals right. What had all ones gets all ones.
template <Half Kind, Fp8 From>
__device__ inline unsigned widen(unsigned upper_bytes) {
  if constexpr (Kind == Half::f16 && From == Fp8::e5m2) return upper_bytes;
  const unsigned sign = upper_bytes & 0x80008000u;
  const unsigned magnitude = upper_bytes & 0x7f007f00u;
  if constexpr (Kind == Half::f16) {
    const unsigned moved = magnitude >> 1;                          // e4m3: a bit less of exponent
    const unsigned nan = (moved + 0x00800080u) & 0x40004000u;       // where all ones carry
    return (multiply_f16x2(moved, 0x5c005c00u) | nan >> 1) | sign;  // times 2^8
  } else if constexpr (From == Fp8::e4m3) {
    const unsigned moved = magnitude >> 4;
    const unsigned nan = (moved + 0x00100010u) & 0x08000800u;
    return (multiply_bf16x2(moved, 0x7b807b80u) | ((nan << 3) - (nan >> 1))) | sign;  // 2^120
  } else {
    const unsigned moved = magnitude >> 3;
    const unsigned special = (moved + 0x00800080u) & 0x10001000u;
    return (multiply_bf16x2(moved, 0x77807780u) | ((special << 2) - (special >> 1))) |
           sign;  // 2^112
  }
}

/// Bytes `First` and `Second` of a register in the upper bytes of the halves.
template <int First, int Second>
__device__ inline unsigned upper_bytes(unsigned bytes) {
  return __byte_perm(bytes, 0, 4 | First << 4 | 4 << 8 | Second << 12);
}

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
/// Two fp8 numbers as two f16.
template <Fp8 From>
__device__ inline unsigned widen_to_f16(unsigned short pair) {
  unsigned halves;
  if constexpr (From == Fp8::e4m3) {
    asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(halves) : "h"(pair));
  } else {
    asm("cvt.rn.f16x2.e5m2x2 %0, %1;" : "=r"(halves) : "h"(pair));
  }
  return halves;
}

/// Of two numbers that bf16 has, too.
__device__ inline unsigned f16_to_bf16(unsigned halves) {
  float low;
  float high;
  asm("{.reg .f16 a, b; mov.b32 {a, b}, %2; cvt.f32.f16 %0, a; cvt.f32.f16 %1, b;}"
      : "=f"(low), "=f"(high)
      : "r"(halves));
  return pack<Half::bf16>(low, high);
}
#endif

/// Bytes `First` and `Second` of a register, widened; by instructions where there are such.
template <Half Kind, Fp8 From, int First, int Second>
__device__ inline unsigned widen_bytes(unsigned bytes) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  const unsigned pair = __byte_perm(bytes, 0, First | Second << 4);
  const unsigned halves = widen_to_f16<From>(static_cast<unsigned short>(pair));
  return Kind == Half::f16 ? halves : f16_to_bf16(halves);
#else
  return widen<Kind, From>(upper_bytes<First, Second>(bytes));
#endif
}

}  // namespace octavo::cuda
