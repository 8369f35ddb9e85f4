#pragma once

#include <vector>

#include "core/kernel.h"
#include "core/work.h"
#include "cuda/variant.h"

namespace octavo::cuda {

KernelInfo cascade();
KernelInfo sm90();
KernelInfo portable();
KernelInfo reference();

// What each kernel runs for a problem that it supports.
std::vector<Variant> cascade_variants(const Problem& problem, const Device& device);
std::vector<Variant> sm90_variants(const Problem& problem, const Device& device);
std::vector<Variant> portable_variants(const Problem& problem, const Device& device);
std::vector<Variant> reference_variants(const Problem& problem, const Device& device);

}  // namespace octavo::cuda
