#pragma once

#include <string>
#include <utility>
#include <vector>

namespace octavo::cuda {

/// A kernel's source with its compile-time parameters: what one cubin is made from, apart from the
/// architecture.
struct Variant {
  std::string source;  ///< below src/cuda/kernels, as in "portable/attend.cu"
  std::string entry;   ///< its one `extern "C" __global__` function
  std::vector<std::pair<std::string, std::string>> definitions;  ///< macros, in a fixed order
  bool may_spill = false;              ///< if not, a build whose registers spill fails
  bool architecture_specific = false;  ///< uses instructions that no other architecture has

  bool operator==(const Variant&) const = default;
};

}  // namespace octavo::cuda
