// In place of the kernels' own.
#pragma once

#include "ptx/mma.h"

namespace octavo::cuda {

template <Half Kind>
unsigned pack(float low, float high) {
  return narrow<Kind>(low) | narrow<Kind>(high) << 16;
}

template <Half Kind>
unsigned multiply_pairs(unsigned a, unsigned b) {
  return pack<Kind>(widen_half<Kind>(a) * widen_half<Kind>(b),
                    widen_half<Kind>(a >> 16) * widen_half<Kind>(b >> 16));
}

inline unsigned multiply_f16x2(unsigned a, unsigned b) { return multiply_pairs<Half::f16>(a, b); }
inline unsigned multiply_bf16x2(unsigned a, unsigned b) { return multiply_pairs<Half::bf16>(a, b); }

}  // namespace octavo::cuda
