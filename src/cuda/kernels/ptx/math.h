// Approximations in hardware: relative errors below 2^-22, subnormal numbers become 0.
#pragma once

namespace octavo::cuda {

inline constexpr float kLog2E = 1.4426950408889634f;

/// 2^x; 0 for -infinity.
__device__ inline float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

/// 1 / x; 0 for infinity.
__device__ inline float reciprocal_fast(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

}  // namespace octavo::cuda
