// Where matrices of K and V begin in padded rows.
#pragma once

#include "portable/shared.h"
#include "tiled/mma.h"

namespace octavo::cuda {

/// A tile of rows of `Pitch` bytes.
template <int Pitch>
struct PaddedRows {
  unsigned lane;  ///< where the lane's first row begins

  __device__ unsigned address(int row, int byte) const { return lane + row * Pitch + byte; }
};

__device__ inline PaddedRows<kKPitch> key_rows(const unsigned char* keys) {
  return {shared_address(keys) + key_row() * kKPitch + key_byte()};
}
__device__ inline PaddedRows<kVPitch> value_rows(const unsigned char* values) {
  return {shared_address(values) + value_row() * kVPitch + value_byte()};
}

/// Whether one of this thread's share of a tile of V is infinite or NaN.
__device__ inline bool has_special(const unsigned char* v) {
  constexpr int kChunks = kDv * kKvBytes / 16;
  unsigned carries = 0;
  for (int i = static_cast<int>(threadIdx.x); i < kKeys * kChunks; i += kThreads) {
    const uint4 words =
        *reinterpret_cast<const uint4*>(v + i / kChunks * kVPitch + i % kChunks * 16);
    carries |= carries_of(words);
  }
  return (carries & kSigns) != 0;
}

}  // namespace octavo::cuda
