// In place of the kernels' own, whose comment says what a lane holds.
#pragma once

#include "block.h"
#include "common/elements.h"

namespace octavo::cuda {

enum class Half { f16, bf16 };

/// The number in the low half.
template <Half Kind>
float widen_half(unsigned bits) {
  return Kind == Half::bf16 ? from_bf16(bits & 0xffff) : from_f16(bits & 0xffff);
}

template <Half Kind>
unsigned narrow(float value) {
  return Kind == Half::bf16 ? to_bf16(value) : to_f16(value);
}

/// Register i of those that a lane gave, two in each of its numbers.
inline unsigned given_register(const emulation::Lane& lane, int i) {
  return static_cast<unsigned>(lane.given[i / 2] >> 32 * (i % 2));
}

inline std::uint64_t two_registers(unsigned first, unsigned second) {
  return first | std::uint64_t{second} << 32;
}

/// Lanes give C in registers 0 to 3, A in 4 to 7 and B in 8 and 9, and take C.
template <Half Kind>
void multiply_by_warp(emulation::Warp& warp) {
  float a[16][16];
  float b[16][8];
  for (int l = 0; l < emulation::kWarpLanes; ++l) {
    const int g = l / 4;
    const int t = l % 4;
    for (int half = 0; half < 2; ++half) {
      for (int i = 0; i < 4; ++i) {
        const unsigned bits = given_register(warp[l], 4 + i) >> 16 * half;
        a[g + i % 2 * 8][2 * t + i / 2 * 8 + half] = widen_half<Kind>(bits);
      }
      for (int i = 0; i < 2; ++i) {
        const unsigned bits = given_register(warp[l], 8 + i) >> 16 * half;
        b[2 * t + 8 * i + half][g] = widen_half<Kind>(bits);
      }
    }
  }
  for (int l = 0; l < emulation::kWarpLanes; ++l) {
    unsigned c[4];
    for (int i = 0; i < 4; ++i) {
      const int row = l / 4 + i / 2 * 8;
      const int column = 2 * (l % 4) + i % 2;
      float sum = 0;
      for (int k = 0; k < 16; ++k) sum += a[row][k] * b[k][column];
      c[i] = __float_as_uint(__uint_as_float(given_register(warp[l], i)) + sum);
    }
    warp[l].taken = {two_registers(c[0], c[1]), two_registers(c[2], c[3])};
  }
}

template <Half Kind>
void multiply_add(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
  emulation::Lane& self = emulation::lane();
  self.given = {two_registers(__float_as_uint(c[0]), __float_as_uint(c[1])),
                two_registers(__float_as_uint(c[2]), __float_as_uint(c[3])),
                two_registers(a[0], a[1]), two_registers(a[2], a[3]), two_registers(b0, b1)};
  emulation::together(multiply_by_warp<Kind>);
  for (int i = 0; i < 4; ++i) {
    c[i] = __uint_as_float(static_cast<unsigned>(self.taken[i / 2] >> 32 * (i % 2)));
  }
}

}  // namespace octavo::cuda
