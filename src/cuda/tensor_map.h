#pragma once

#include "cuda/kernels/sm90/params.h"
#include "octavo/arguments.h"

namespace octavo::cuda {

/// Whether the tensor memory accelerator can address K or V.
bool has_tensor_map(const KvView& view);

/// K or V, of 16-bit elements, as [pages, hkv, slots, columns] in boxes of `rows` slots and 64
/// columns, as kernels/sm90 reads them. Throws Error(device_error).
TensorMap tensor_map(const KvView& view, int rows);

}  // namespace octavo::cuda
