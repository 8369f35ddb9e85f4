#pragma once

#include "core/kernel.h"
#include "cuda/variant.h"

namespace octavo::cuda {

/// Whether the environment variable OCTAVO_CUDA_CHECK is 1: read once.
bool checks_runs();

/// Has the device check the lengths and page ids of a run against its plan's bounds, and waits for
/// it. Throws Error(invalid_argument) that names the request, the position and the value; also for
/// a stream that a graph captures, which cannot be waited for.
void check_run(const Device& device, const StreamCall& call);

/// The code that `check_run` runs.
Variant check_variant();

}  // namespace octavo::cuda
