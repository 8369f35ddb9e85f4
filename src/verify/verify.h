#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "octavo/octavo.h"

namespace octavo::verify {

class Case;

/// What came of one kernel on one problem.
struct Result {
  bool passed = false;
  double worst = 0;     ///< largest error as a share of its bound; at most 1 if passed
  std::string failure;  ///< the first wrong element or touched guard byte; empty if passed
};

/// Runs the plan on fresh random data drawn from `seed`, with NaN wherever no query may look,
/// poisoned outputs and guard bytes around them, and compares with a double-precision oracle. Each
/// error bound follows from the dtypes and the row's own numbers. A plan for a GPU runs on its
/// default stream, not on the executor.
Result verify(const Plan& plan, std::uint64_t seed, Executor& executor);

/// What a run left in the case's outputs, compared with the oracle. `weights`: what the kernel
/// rounds weights to.
Result compare(const Case& c, DType weights);

/// Loads the code of a GPU's kernel for all problems that it supports, several at a time, because
/// some may have to be compiled first. `kernel` may be empty: the selected one. What fails fails
/// again where it is planned.
void load_code(const std::vector<Problem>& problems, const Device& device,
               const std::string& kernel);

/// A valid problem drawn from the whole space, small enough to verify in milliseconds.
Problem sample(std::uint64_t seed);

/// The simplest problem near `failing` on which `fails` still holds.
Problem shrink(const Problem& failing, const std::function<bool(const Problem&)>& fails);

}  // namespace octavo::verify
