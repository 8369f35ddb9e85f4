#pragma once

#include "core/kernel.h"
#include "octavo/selection.h"

namespace octavo::cuda {

/// Throws Error(invalid_argument) for an argument that the device does not reach, with its address
/// and where that is: in host memory that is not pinned, or on another device. The device's context
/// must be current.
void check_memory(const Device& device, const StreamCall& call);

/// Throws Error(invalid_argument) for a stream that is not of the device's primary context.
void check_stream(const Device& device, void* stream);

}  // namespace octavo::cuda
