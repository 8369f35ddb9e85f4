#pragma once

#include "tiled/params.h"

namespace octavo::cuda {

/// A CUtensorMap, which the host encodes.
struct alignas(64) TensorMap {
  unsigned long long words[16];
};

/// Where in shared memory a tile's next 64 columns, and its next eight rows, stand: bytes further.
struct TileSteps {
  int32_t slab;
  int32_t rows;
};

/// K or V in boxes of box_rows slots of a page. A box has 64 columns, of [pages, hkv, slots,
/// columns]; or, folded, all columns of [pages, slots / 8, slabs, 8, 64], where head h of page p is
/// page p * page_heads + h, or h * head_slabs slabs further in page p * page_heads.
struct BoxedView {
  TensorMap map;
  TileSteps steps;  ///< of tiles that are made of such boxes, or of rows
  int32_t head_slabs;
  int32_t page_heads;
};

/// Q [tokens, hq, d] in boxes of 64 columns of a warpgroup's rows: tokens with a group's heads.
struct QueryBoxes {
  TensorMap map;
  int32_t exist;  ///< 0: such boxes do not fit
};

struct Sm90Params : TiledParams {
  QueryBoxes q;
  BoxedView k;
  BoxedView v;
  int32_t box_rows;  ///< of a page, and a divisor of a tile's keys; 0: no boxes, but copies of rows
  int32_t folded;    ///< whether boxes of K and V are folded
  int32_t row_tiles;  ///< of rows, of a thread block of short.cu; a power of two

  /// Whether addresses and strides of K and V are multiples of 16 bytes.
  int32_t kv_whole;
};

inline constexpr unsigned kClearThreads = 256;

/// What is to be 0 before a call's first thread block takes or merges something.
struct CounterParams {
  unsigned* counters;
  unsigned count;
};

}  // namespace octavo::cuda
