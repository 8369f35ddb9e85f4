// Two 16-bit numbers of a register at a time: conversions from floats and products.
#pragma once

#include "ptx/mma.h"

namespace octavo::cuda {

/// The two floats rounded to nearest even, `low` in the low half.
template <Half Kind>
__device__ inline unsigned pack(float low, float high) {
  unsigned packed;
  if constexpr (Kind == Half::bf16) {
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
  } else {
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
  }
  return packed;
}

/// a * b of two f16 each.
__device__ inline unsigned multiply_f16x2(unsigned a, unsigned b) {
  unsigned product;
  asm("mul.rn.f16x2 %0, %1, %2;" : "=r"(product) : "r"(a), "r"(b));
  return product;
}

/// a * b of two bf16 each; sm_80 has no plain product.
__device__ inline unsigned multiply_bf16x2(unsigned a, unsigned b) {
  constexpr unsigned kMinusZeros = 0x80008000u;
  unsigned product;
  asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(product) : "r"(a), "r"(b), "r"(kMinusZeros));
  return product;
}

/// Of two numbers each: the larger magnitude, with any sign; NaN if one is NaN. Since sm_86.
template <Half Kind>
__device__ inline unsigned largest_magnitudes(unsigned a, unsigned b) {
  unsigned largest;
  if constexpr (Kind == Half::bf16) {
    asm("max.NaN.xorsign.abs.bf16x2 %0, %1, %2;" : "=r"(largest) : "r"(a), "r"(b));
  } else {
    asm("max.NaN.xorsign.abs.f16x2 %0, %1, %2;" : "=r"(largest) : "r"(a), "r"(b));
  }
  return largest;
}

}  // namespace octavo::cuda
