#pragma once

#include "tiled/params.h"

namespace octavo::cuda {

/// Of K or V, in units of 16 bytes, where TiledParams::kv_whole is set.
struct NearStrides {
  unsigned page;
  unsigned slot;
};

struct PortableParams : TiledParams {
  /// Whether addresses and strides of K and V are multiples of 16 bytes, and both are small enough
  /// to count these in 32 bits.
  int32_t kv_whole;
  NearStrides k;
  NearStrides v;
};

}  // namespace octavo::cuda
