// Which request a unit of work belongs to: lengths are read on the device, so the grid is as large
// as the problem's bounds allow, and each block looks up its place.
#pragma once

#include "common/params.h"

namespace octavo::cuda {

inline constexpr int kWarp = 32;
inline constexpr unsigned kAllLanes = 0xffffffffu;

/// A unit (a row, or a tile of rows) of a request.
struct Place {
  int32_t request;  ///< -1: the batch has no such unit
  int32_t unit;     ///< within the request
  int32_t q_begin;  ///< the request's first row in q and out
  int32_t q_len;
  int64_t kv_begin;  ///< its first token in k and v; 0 where there are pages
  int32_t kv_len;

  /// Of a query token of the request; negative where q_len > kv_len.
  __device__ int32_t position(int32_t token) const { return kv_len - q_len + token; }
};

/// The sum over the lanes up to and with this one.
__device__ inline int32_t inclusive_sum(int32_t value) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  for (int step = 1; step < kWarp; step *= 2) {
    const int32_t before = __shfl_up_sync(kAllLanes, value, step);
    if (lane >= step) value += before;
  }
  return value;
}

/// Of numbers that are not negative.
__device__ inline int64_t sum_of_lanes(int32_t value) {
  const unsigned low = __reduce_add_sync(kAllLanes, static_cast<unsigned>(value) & 0xffff);
  const unsigned high = __reduce_add_sync(kAllLanes, static_cast<unsigned>(value) >> 16);
  return (int64_t{high} << 16) + low;
}

/// The sum of what requests have by their lengths. All lanes of a warp call it.
template <typename Count>
__device__ int64_t sum_of_requests(const AttentionParams& p, int32_t requests, const Count& count) {
  int64_t sum = 0;
  for (int32_t first = 0; first < requests; first += kWarp) {
    const int32_t request = first + static_cast<int32_t>(threadIdx.x) % kWarp;
    sum += sum_of_lanes(request < requests ? count(p.q_lens[request], p.kv_lens[request]) : 0);
  }
  return sum;
}

/// The place of unit `index` of the batch, where a request has `units_of(q_len, kv_len)` units. All
/// lanes of a warp call it with the same index; thread blocks are one-dimensional.
template <typename Units>
__device__ Place find_place(const AttentionParams& p, int32_t index, const Units& units_of) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const bool pages = p.page_table != nullptr;
  int32_t unit_begin = 0;
  int32_t q_begin = 0;
  int64_t kv_begin = 0;
  for (int32_t first = 0; first < p.requests; first += kWarp) {
    const int32_t request = first + lane;
    const bool exists = request < p.requests;
    const int32_t q_len = exists ? p.q_lens[request] : 0;
    const int32_t kv_len = exists ? p.kv_lens[request] : 0;
    const int32_t units = exists ? units_of(q_len, kv_len) : 0;
    const int32_t unit_end = unit_begin + inclusive_sum(units);
    const unsigned beyond = __ballot_sync(kAllLanes, index < unit_end);
    const int found = __ffs(static_cast<int>(beyond)) - 1;
    const bool before = found < 0 || lane < found;
    q_begin += static_cast<int32_t>(
        __reduce_add_sync(kAllLanes, before ? static_cast<unsigned>(q_len) : 0u));
    if (!pages) kv_begin += sum_of_lanes(before ? kv_len : 0);
    if (found >= 0) {
      return {first + found, index - __shfl_sync(kAllLanes, unit_end - units, found),
              q_begin,       __shfl_sync(kAllLanes, q_len, found),
              kv_begin,      __shfl_sync(kAllLanes, kv_len, found)};
    }
    unit_begin = __shfl_sync(kAllLanes, unit_end, kWarp - 1);
  }
  return {-1, 0, 0, 0, 0, 0};
}

/// The place of a row of q and out; its unit is the query token within the request.
__device__ inline Place find_row(const AttentionParams& p, int32_t row) {
  return find_place(p, row, [](int32_t q_len, int32_t) { return q_len; });
}

}  // namespace octavo::cuda
