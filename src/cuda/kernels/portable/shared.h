// A thread block's shared memory.
//
// Rows of K and V, as Q's, are padded by 16 bytes: eight rows at the same column then lie in
// different banks, whatever the head dim.
#pragma once

#include "tiled/mma_queries.h"
#include "tiled/rows.h"
#include "tiled/seen.h"

namespace octavo::cuda {

inline constexpr int kKPitch = kD * kKvBytes + 16;  // bytes
inline constexpr int kVPitch = kDv * kKvBytes + 16;
inline constexpr int kStages = 2;

struct Shared {
  unsigned char q[kRows * kQPitch];
  unsigned char k[kStages][kKeys * kKPitch];
  unsigned char v[kStages][kKeys * kVPitch];
  Rows rows;
  SeenKeys seen[kWarps];        ///< by the rows of each warp
  KeyRange wanted;              ///< keys of this thread block
  const int32_t* pages;         ///< the request's, or null
  const unsigned char* k_from;  ///< the head's first key, and value: of this block's columns
  const unsigned char* v_from;
};

}  // namespace octavo::cuda
