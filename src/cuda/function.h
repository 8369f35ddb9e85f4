#pragma once

#include <cstddef>
#include <cstdint>

#include "cuda/variant.h"
#include "octavo/selection.h"

namespace octavo::cuda {

inline constexpr int kWarpThreads = 32;

struct Grid {
  std::uint32_t x = 1, y = 1, z = 1;
};

/// When a grid may begin.
enum class Begin {
  after_all,  ///< that the stream has before it
  early,      ///< when the kernel before it lets it: ptx/grid.h. That must be one of ours
};

/// A kernel's code on a device. A handle: copies are cheap, code stays loaded while the process
/// lives.
class Function {
 public:
  /// Launches on `stream`, a CUstream of the device. `params` is the kernel's one parameter, read
  /// before this returns. Throws Error(device_error).
  void launch(Grid grid, int threads, void* stream, const void* params,
              Begin begin = Begin::after_all) const;

 private:
  friend Function load(const Device& device, const Variant& variant, int shared_bytes);
  void* handle_ = nullptr;
  const char* source_ = "";
  int shared_bytes_ = 0;
  bool may_begin_early_ = false;
};

/// Finds the variant's code in the pack or the cache, or compiles it, and loads it on the device
/// with room for `shared_bytes` of dynamic shared memory. Throws Error(unavailable) where there is
/// no code and no compiler, with what to install.
Function load(const Device& device, const Variant& variant, int shared_bytes);

}  // namespace octavo::cuda
