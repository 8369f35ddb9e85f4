#pragma once

#include <string_view>
#include <vector>

#include "cuda/variant.h"
#include "octavo/problem.h"

namespace octavo::cuda {

/// The architectures that packs are made for: those that the kernels are tested to compile for.
inline constexpr int kArchitectures[] = {80, 86, 89, 90, 100, 103, 120, 121};

/// What the kernels that support the problem on the architecture run, each variant once. `kernel`
/// names one of them; empty: all. Throws Error(unsupported) for an unknown name, and with the
/// reasons where the named kernel cannot.
std::vector<Variant> needed_variants(const Problem& problem, int architecture,
                                     std::string_view kernel = {});

/// What a pack holds unless told otherwise: the variants for the head dims and dtypes that are
/// common in language models. Throws as `needed_variants` for an unknown name.
std::vector<Variant> default_variants(int architecture, std::string_view kernel = {});

}  // namespace octavo::cuda
