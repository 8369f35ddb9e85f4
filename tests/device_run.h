#pragma once

#include "octavo/octavo.h"

namespace octavo::tests {

/// Runs a plan on arguments in host memory: on the executor, or on the plan's GPU, to which inputs
/// and outputs are copied and from which outputs are copied back.
void run_on_device(const Plan& plan, const Arguments& arguments, Executor& executor);

/// Whether there is a GPU. Tests that need one skip without.
bool has_gpu();

}  // namespace octavo::tests
