#pragma once

#include <filesystem>

namespace octavo::cuda {

/// The folder of the shared library, or else the program, that this code is part of.
std::filesystem::path library_folder();

/// The pack: OCTAVO_CUDA_PACK where set, or octavo-cubins beside the library. Of a command line in
/// bin/, the library's place is ../lib or, in a Python package, the folder above.
std::filesystem::path pack_folder();

/// octavo/cubins below XDG_CACHE_HOME or ~/.cache; empty where there is neither.
std::filesystem::path cache_folder();

}  // namespace octavo::cuda
