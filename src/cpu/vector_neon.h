// The operations of vector.h in AArch64's Advanced SIMD; and pairs of bf16 in FEAT_BF16.
#pragma once

#include <arm_neon.h>

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "cpu/convert.h"
#include "octavo/dtype.h"

namespace octavo {
namespace {

using Vector = float32x4_t;
constexpr int kLanes = 4;
constexpr int kMostVectors = 4;
constexpr int kBlockRows = 6;
constexpr int kRowsInPlace = 4;

inline Vector load(const float* at) { return vld1q_f32(at); }
inline void store(float* at, Vector x) { vst1q_f32(at, x); }
inline Vector broadcast(float x) { return vdupq_n_f32(x); }
inline Vector fma(Vector a, Vector b, Vector c) { return vfmaq_f32(c, a, b); }
inline Vector most(Vector a, Vector b) { return vbslq_f32(vcgtq_f32(a, b), a, b); }
inline float sum_lanes(Vector x) { return vaddvq_f32(x); }
inline float largest_lane(Vector x) { return vmaxvq_f32(x); }
inline Four sums_of_four(const Vector* x) {
  return vpaddq_f32(vpaddq_f32(x[0], x[1]), vpaddq_f32(x[2], x[3]));
}
inline Four largest_of_four(const Vector* x) {
  return vpmaxq_f32(vpmaxq_f32(x[0], x[1]), vpmaxq_f32(x[2], x[3]));
}

template <DType T>
Vector load_as_floats(const std::byte* row, std::int64_t index, std::int64_t end) {
  alignas(16) std::byte whole[kLanes * sizeof(float)];
  const std::byte* at = row + index * static_cast<std::int64_t>(size_of(T));
  if (end - index < kLanes) at = fill_with_zeros(T, at, end - index, whole, sizeof whole);
  const auto halves = [&] { return vld1_u16(reinterpret_cast<const std::uint16_t*>(at)); };
  const auto bytes = [&] {
    std::uint32_t four;
    std::memcpy(&four, at, sizeof four);
    return vget_low_u16(vmovl_u8(vreinterpret_u8_u32(vdup_n_u32(four))));
  };
  if constexpr (T == DType::f32) {
    return vld1q_f32(reinterpret_cast<const float*>(at));
  } else if constexpr (T == DType::f16) {
    return vcvt_f32_f16(vreinterpret_f16_u16(halves()));
  } else if constexpr (T == DType::bf16) {
    return vreinterpretq_f32_u32(vshll_n_u16(halves(), 16));
  } else if constexpr (T == DType::e5m2) {  // the upper byte of a half
    return vcvt_f32_f16(vreinterpret_f16_u16(vshl_n_u16(bytes(), 8)));
  } else {  // the exponent goes into place; the product makes subnormals right too
    const uint32x4_t bits = vmovl_u16(bytes());
    const uint32x4_t low = vandq_u32(bits, vdupq_n_u32(0x7f));
    const Vector magnitude = vreinterpretq_f32_u32(vshlq_n_u32(low, 20)) * broadcast(0x1p120f);
    const uint32x4_t nan = vceqq_u32(low, vdupq_n_u32(0x7f));
    const uint32x4_t sign = vshlq_n_u32(vbicq_u32(bits, vdupq_n_u32(0x7f)), 24);
    return vreinterpretq_f32_u32(vorrq_u32(vorrq_u32(vreinterpretq_u32_f32(magnitude), nan), sign));
  }
}

inline Vector sum_each(const Vector* x) { return sums_of_four(x); }

[[gnu::always_inline]] inline void transpose(const Vector* rows, Vector* columns) {
  const auto doubles = [](Vector x) { return vreinterpretq_f64_f32(x); };
  const Vector a = vtrn1q_f32(rows[0], rows[1]);  // words 0 and 2 of two rows
  const Vector b = vtrn2q_f32(rows[0], rows[1]);
  const Vector c = vtrn1q_f32(rows[2], rows[3]);
  const Vector e = vtrn2q_f32(rows[2], rows[3]);
  columns[0] = vreinterpretq_f32_f64(vtrn1q_f64(doubles(a), doubles(c)));
  columns[1] = vreinterpretq_f32_f64(vtrn1q_f64(doubles(b), doubles(e)));
  columns[2] = vreinterpretq_f32_f64(vtrn2q_f64(doubles(a), doubles(c)));
  columns[3] = vreinterpretq_f32_f64(vtrn2q_f64(doubles(b), doubles(e)));
}

#if defined(__ARM_FEATURE_BF16_VECTOR_ARITHMETIC)
struct Bf16Pairs {
  static constexpr int kPerWord = 2;

  template <DType T>
  static Vector load(const std::byte* row, std::int64_t word, std::int64_t elements) {
    const std::int64_t index = 2 * word;
    const Vector low = load_as_floats<T>(row, index, elements);
    const Vector high = load_as_floats<T>(row, index + kLanes, elements);
    return vreinterpretq_f32_bf16(vcvtq_high_bf16_f32(vcvtq_low_bf16_f32(low), high));
  }
  static void interleave(Vector first, Vector second, Vector* pairs) {
    const uint16x8_t a = vreinterpretq_u16_f32(first);
    const uint16x8_t b = vreinterpretq_u16_f32(second);
    pairs[0] = vreinterpretq_f32_u16(vzip1q_u16(a, b));
    pairs[1] = vreinterpretq_f32_u16(vzip2q_u16(a, b));
  }
  static Vector multiply_add(Vector sum, Vector a, Vector b) {
    return vbfdotq_f32(sum, vreinterpretq_bf16_f32(a), vreinterpretq_bf16_f32(b));
  }
  static void store_rounded(std::uint16_t* at, Vector x) {
    vst1_bf16(reinterpret_cast<bfloat16_t*>(at), vcvt_bf16_f32(x));
  }
  static void store_two_rounded(std::uint16_t* at, Vector first, Vector second) {
    store_rounded(at, first);
    store_rounded(at + kLanes, second);
  }
};
#endif

}  // namespace
}  // namespace octavo
