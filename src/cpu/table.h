#pragma once

#include <vector>

#include "core/kernel.h"

namespace octavo {

/// The CPU's kernels, in the order that breaks ties of cost. The last supports every valid problem.
const std::vector<KernelInfo>& cpu_kernels();

}  // namespace octavo
