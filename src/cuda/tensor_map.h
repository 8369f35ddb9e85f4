#pragma once

#include "cuda/kernels/sm90/params.h"
#include "octavo/arguments.h"

namespace octavo::cuda {

/// Whether the tensor memory accelerator can address K or V.
bool has_boxes(const KvView& view);

/// Whether it can bring boxes of all columns at a time: whole slabs of 64, of pages of multiples of
/// 8 slots.
bool has_folded_boxes(const KvView& view);

/// How boxes are made of K or V.
struct Boxing {
  int rows = 0;         ///< slots of a box; 0: there are no boxes
  bool folded = false;  ///< see has_folded_boxes

  bool operator==(const Boxing&) const = default;
};

/// K or V, of 16-bit elements; the steps of tiles are set if boxes are folded. Throws
/// Error(device_error).
BoxedView boxed_view(const KvView& view, const Boxing& boxing);

/// Q, of 16-bit elements, if it can address it and a group of heads divides a warpgroup's rows.
/// Throws Error(device_error).
QueryBoxes query_boxes(const TensorView<3>& view, std::int64_t group);

/// Of tiles of so many keys whose slabs follow one another, as boxes that are not folded and rows
/// make them.
TileSteps steps_of_slabs(int keys);

}  // namespace octavo::cuda
