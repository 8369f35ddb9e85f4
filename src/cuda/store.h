#pragma once

#include <cstddef>
#include <vector>

#include "cuda/variant.h"

namespace octavo::cuda {

/// The device code of a variant for an architecture, 80 to 121: from the pack, the cache, or
/// compiled now into the cache. Throws Error(unavailable) with what to install where it is in
/// neither and there is no compiler, and with the compiler's words where it fails.
std::vector<std::byte> cubin(const Variant& variant, int architecture);

}  // namespace octavo::cuda
