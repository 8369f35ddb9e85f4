#pragma once

#include <cstddef>
#include <string>

#include "cuda/function.h"

namespace octavo::emulation {

/// A variant that was compiled for the CPU.
struct Emulated {
  std::string name;          ///< as `name_of` makes it
  std::size_t shared_bytes;  ///< of dynamic shared memory that it uses
  void (*run)(const cuda::Grid& grid, int threads, const void* params);
};

/// Lets cuda::load find it.
bool add(const Emulated& emulated);

/// The source and the definitions, as in "tiled/merge.cu OCTAVO_ROWS=16 OCTAVO_KEYS=32".
std::string name_of(const cuda::Variant& variant);

/// A variant that was not compiled for the CPU.
struct NotEmulated {
  std::string name;
};

}  // namespace octavo::emulation
