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

/// As bits a NaN is larger than any number.
template <Half>
unsigned largest_magnitudes(unsigned a, unsigned b) {
  unsigned largest = 0;
  for (const unsigned magnitude : {0x7fffu, 0x7fff0000u}) {
    largest |= (a & magnitude) < (b & magnitude) ? b & magnitude : a & magnitude;
  }
  return largest;
}

inline unsigned multiply_f16x2(unsigned a, unsigned b) { return multiply_pairs<Half::f16>(a, b); }
inline unsigned multiply_bf16x2(unsigned a, unsigned b) { return multiply_pairs<Half::bf16>(a, b); }

}  // namespace octavo::cuda
