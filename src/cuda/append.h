#pragma once

#include "cuda/variant.h"
#include "octavo/append.h"
#include "octavo/selection.h"

namespace octavo::cuda {

/// Throws Error(invalid_argument) for a stream of another context, for memory that the device does
/// not reach, and for lengths and page ids that the host does not. Reads nothing behind a pointer.
void check_append_memory(const Device& device, const AppendArguments& arguments, void* stream);

/// Enqueues an append that was checked. Lengths and page ids are read before this returns.
void launch_append(const Device& device, const AppendArguments& arguments, void* stream);

/// The code that it runs.
Variant append_variant();

}  // namespace octavo::cuda
