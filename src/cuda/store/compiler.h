#pragma once

#include <chrono>
#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include "cuda/store/sources.h"
#include "cuda/variant.h"

namespace octavo::cuda {

/// Where compilers are looked for. nvcc comes first, and in each list the first that answers.
struct CompilerSearch {
  std::vector<std::string> nvcc;   ///< paths of the program
  std::vector<std::string> nvrtc;  ///< paths of the library, or names for the dynamic loader

  /// OCTAVO_NVCC or OCTAVO_NVRTC where set, and nothing else then. Otherwise nvcc on the PATH and
  /// in /usr/local/cuda, and NVRTC as PyPI's package puts it, as the system finds it, and in
  /// /usr/local/cuda.
  static CompilerSearch from_environment();
};

struct Compiler {
  enum class Kind { nvcc, nvrtc } kind = Kind::nvcc;
  std::string path;
  std::string version;  ///< one line, the same wherever the same compiler is installed
};

/// The first compiler that answers, asked once a process. Throws Error(unavailable) with what to
/// install where there is none, and with what each candidate said.
Compiler find_compiler(const CompilerSearch& search);

/// What the compiler makes from `files`, of which the first is the variant's source. `target` is as
/// in sm_90. Throws Error(unavailable) with the compiler's words where it fails, crashes, takes
/// longer than `limit`, spills registers though the variant may not, or serialises wgmma.
std::vector<std::byte> compile(const Compiler& compiler, std::span<const EmbeddedFile> files,
                               const Variant& variant, const std::string& target,
                               std::chrono::milliseconds limit);

}  // namespace octavo::cuda
