#pragma once

#include "cuda/function.h"
#include "octavo/merge_states.h"

namespace octavo::cuda {

/// Enqueues arguments whose views were checked. Throws Error(invalid_argument) for a stream of
/// another context and for memory that the device does not reach.
void merge_states(const Device& device, const MergeArguments& arguments, void* stream);

/// The same with code that is loaded, and memory that was checked. `rows`: null, or in the device's
/// memory, how many rows there are; the others are left alone.
void launch_merge(const Function& function, const MergeArguments& arguments,
                  const std::int32_t* rows, void* stream);

/// The code that it runs.
Variant merge_states_variant();

}  // namespace octavo::cuda
