#pragma once

#include <vector>

#include "core/kernel.h"
#include "cuda/device.h"

namespace octavo::cuda {

/// The kernels for NVIDIA GPUs, in the order that breaks ties of cost. The last supports every
/// valid problem.
const std::vector<KernelInfo>& kernels();

/// Runs a loaded kernel on its device. Throws Error(invalid_argument), before anything is enqueued,
/// for a stream of another context and for memory that the device does not reach.
void run(const Device& device, const StreamKernel& kernel, const StreamCall& call);

}  // namespace octavo::cuda
