#pragma once

#include "cuda/kernels/sm90/params.h"
#include "octavo/arguments.h"

namespace octavo::cuda {

/// Whether the tensor memory accelerator can address K or V.
bool has_boxes(const KvView& view);

/// Whether it can bring boxes of all columns at a time: whole slabs of 64, of pages of multiples of
/// 8 slots.
bool has_folded_boxes(const KvView& view);

/// K or V, of 16-bit elements, in boxes of `rows` slots, for tiles of `keys`. Throws
/// Error(device_error).
BoxedView boxed_view(const KvView& view, int rows, int keys, bool folded);

/// The same where tiles are made of rows: only its steps are meant.
BoxedView unboxed_view(int keys);

}  // namespace octavo::cuda
