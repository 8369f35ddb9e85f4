// What device code finds in the language, for a CPU's compiler.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <type_traits>

#include "block.h"

#define __device__
#define __global__
#define __grid_constant__
#define __launch_bounds__(...)
#define __noinline__  // which attributes of the standard library name, too
#define __align__(bytes) __attribute__((aligned(bytes)))
// All threads of a block are fibers of one CPU thread.
#define __shared__ thread_local
#define threadIdx (::octavo::emulation::thread_index())
#define blockIdx (::octavo::emulation::block_index())
#define gridDim (::octavo::emulation::grid_size())

struct uint2 {
  unsigned x, y;
};
struct uint4 {
  unsigned x, y, z, w;
};
struct float2 {
  float x, y;
};
struct float4 {
  float x, y, z, w;
};

using std::isfinite;
using std::isnan;

template <typename A, typename B>
std::common_type_t<A, B> min(A a, B b) {
  return a < b ? a : b;
}
template <typename A, typename B>
std::common_type_t<A, B> max(A a, B b) {
  return a < b ? b : a;
}

// Not inlined, so that no compiler fuses one with another.
[[gnu::noinline]] inline float __fadd_rn(float a, float b) { return a + b; }
[[gnu::noinline]] inline float __fsub_rn(float a, float b) { return a - b; }
[[gnu::noinline]] inline float __fmul_rn(float a, float b) { return a * b; }
[[gnu::noinline]] inline float __fdiv_rn(float a, float b) { return a / b; }

inline float __uint_as_float(unsigned bits) { return std::bit_cast<float>(bits); }
inline float __int_as_float(int bits) { return std::bit_cast<float>(bits); }
inline unsigned __float_as_uint(float value) { return std::bit_cast<unsigned>(value); }
inline int __ffs(int bits) { return __builtin_ffs(bits); }
inline unsigned __umulhi(unsigned a, unsigned b) {
  return static_cast<unsigned>(std::uint64_t{a} * b >> 32);
}

/// Byte i of the result is the one of the eight of a and b that digit i of the selector names.
inline unsigned __byte_perm(unsigned a, unsigned b, unsigned selector) {
  const std::uint64_t bytes = std::uint64_t{b} << 32 | a;
  unsigned result = 0;
  for (int i = 0; i < 4; ++i) {
    const unsigned which = selector >> 4 * i & 7;
    result |= static_cast<unsigned>(bytes >> 8 * which & 0xff) << 8 * i;
  }
  return result;
}

inline void __syncthreads() { ::octavo::emulation::barrier(false); }
inline int __syncthreads_or(int flag) { return ::octavo::emulation::barrier(flag != 0) ? 1 : 0; }
inline void __syncwarp() {
  ::octavo::emulation::together([](::octavo::emulation::Warp&) {});
}

namespace octavo::emulation {

inline void expect_whole_warp(unsigned lanes) {
  if (lanes != 0xffffffffu) throw std::runtime_error("an operation on some lanes of a warp only");
}

inline void exchange(Warp& warp) {
  for (Lane& lane : warp) lane.taken[0] = warp[lane.given[1]].given[0];
}

template <typename T>
T value_of_lane(T value, int source) {
  static_assert(sizeof value <= sizeof(std::uint64_t));
  Lane& self = lane();
  self.given = {};
  std::memcpy(&self.given[0], &value, sizeof value);
  self.given[1] = static_cast<unsigned>(source) % kWarpLanes;
  together(exchange);
  std::memcpy(&value, &self.taken[0], sizeof value);
  return value;
}

inline int lane_index() { return static_cast<int>(thread_index().x) % kWarpLanes; }

inline void gather_flags(Warp& warp) {
  std::uint64_t flags = 0;
  for (int i = 0; i < kWarpLanes; ++i) flags |= warp[i].given[0] << i;
  for (Lane& lane : warp) lane.taken[0] = flags;
}

inline void add_all(Warp& warp) {
  std::uint64_t sum = 0;
  for (const Lane& lane : warp) sum += lane.given[0];
  for (Lane& lane : warp) lane.taken[0] = sum;
}

}  // namespace octavo::emulation

template <typename T>
T __shfl_sync(unsigned lanes, T value, int source) {
  octavo::emulation::expect_whole_warp(lanes);
  return octavo::emulation::value_of_lane(value, source);
}

template <typename T>
T __shfl_xor_sync(unsigned lanes, T value, int mask) {
  return __shfl_sync(lanes, value, octavo::emulation::lane_index() ^ mask);
}

template <typename T>
T __shfl_up_sync(unsigned lanes, T value, int distance) {
  const int lane = octavo::emulation::lane_index();
  return __shfl_sync(lanes, value, lane >= distance ? lane - distance : lane);
}

inline unsigned __ballot_sync(unsigned lanes, bool flag) {
  octavo::emulation::expect_whole_warp(lanes);
  octavo::emulation::Lane& self = octavo::emulation::lane();
  self.given[0] = flag ? 1 : 0;
  octavo::emulation::together(octavo::emulation::gather_flags);
  return static_cast<unsigned>(self.taken[0]);
}

inline unsigned __reduce_add_sync(unsigned lanes, unsigned value) {
  octavo::emulation::expect_whole_warp(lanes);
  octavo::emulation::Lane& self = octavo::emulation::lane();
  self.given[0] = value;
  octavo::emulation::together(octavo::emulation::add_all);
  return static_cast<unsigned>(self.taken[0]);
}

// Blocks run one after another.
inline void __threadfence() {}
template <typename T>
T __ldcg(const T* from) {
  return *from;
}
inline unsigned atomicAdd(unsigned* sum, unsigned value) {
  const unsigned before = *sum;
  *sum += value;
  return before;
}

inline int __popc(unsigned bits) { return __builtin_popcount(bits); }

inline bool __any_sync(unsigned lanes, bool flag) { return __ballot_sync(lanes, flag) != 0; }
inline bool __all_sync(unsigned lanes, bool flag) { return !__any_sync(lanes, !flag); }
