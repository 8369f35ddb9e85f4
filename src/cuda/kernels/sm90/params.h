#pragma once

#include "tiled/params.h"

namespace octavo::cuda {

/// A CUtensorMap, which the host encodes.
struct alignas(64) TensorMap {
  unsigned long long words[16];
};

struct Sm90Params : TiledParams {
  /// K and V as [pages, hkv, slots, columns], in boxes of box_rows slots and 64 columns.
  TensorMap k_map;
  TensorMap v_map;
  int32_t box_rows;  ///< of a page, and a divisor of a tile's keys; 0: no boxes, but copies of rows

  /// Whether addresses and strides of K and V are multiples of 16 bytes.
  int32_t kv_whole;
};

}  // namespace octavo::cuda
