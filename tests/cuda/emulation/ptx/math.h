// In place of the kernels' own: the functions of the C library, subnormal numbers become 0.
#pragma once

#include <cmath>

namespace octavo::cuda {

inline constexpr float kLog2E = 1.4426950408889634f;

inline float flush_subnormal(float x) { return std::fabs(x) < 0x1p-126f ? 0.0f : x; }

inline float exp2_fast(float x) { return flush_subnormal(std::exp2(x)); }
inline float reciprocal_fast(float x) { return flush_subnormal(1 / x); }

}  // namespace octavo::cuda
