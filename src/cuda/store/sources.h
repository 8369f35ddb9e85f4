#pragma once

#include <span>
#include <string_view>
#include <vector>

namespace octavo::cuda {

/// A file that the build put into the library.
struct EmbeddedFile {
  std::string_view path;
  std::string_view bytes;
};

/// Every file below src/cuda/kernels, named from there: what device code is compiled from.
std::span<const EmbeddedFile> kernel_sources();

/// The program of nvrtc_child.cpp.
std::span<const EmbeddedFile> nvrtc_child();

/// The named file and those it includes in quotes, directly or not, each once. Includes are looked
/// for beside the file that has them, then from the root. Throws Error(unavailable) if `all` has no
/// such file.
std::vector<EmbeddedFile> with_includes(std::span<const EmbeddedFile> all, std::string_view name);

}  // namespace octavo::cuda
