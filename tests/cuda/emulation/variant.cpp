// One variant of a kernel, compiled for the CPU. The build defines the kernel's own macros and
//   EMULATED_NAME       see Emulated::name
//   EMULATED_SOURCE     the .cu file
//   EMULATED_ENTRY      its function
//   EMULATED_NAMESPACE  in place of `cuda`: constants of the same name differ between variants
//   EMULATED_SHARED     what stands in its dynamic shared memory, if it has one
//   EMULATED_MEMORY     in place of `memory`, which is that
#include "block.h"
#include "cuda_builtins.h"
#include "emulated.h"

namespace octavo::emulation {
using cuda::Grid;
}

#define cuda EMULATED_NAMESPACE
#define memory EMULATED_MEMORY

#include EMULATED_SOURCE

#ifdef EMULATED_SHARED
namespace octavo::cuda {
alignas(1024) thread_local unsigned char memory[sizeof(EMULATED_SHARED)];
}
#endif

namespace octavo::emulation {
namespace {

std::span<unsigned char> dynamic_memory() {
#ifdef EMULATED_SHARED
  return octavo::cuda::memory;
#else
  return {};
#endif
}

/// With the kernel's one parameter.
template <auto Kernel, typename Params>
void run_grid(void (*)(Params), const Grid& grid, int threads, const void* params) {
  const Params& given = *static_cast<const Params*>(params);
  for (unsigned z = 0; z < grid.z; ++z) {
    for (unsigned y = 0; y < grid.y; ++y) {
      for (unsigned x = 0; x < grid.x; ++x) {
        run_block({x, y, z}, {grid.x, grid.y, grid.z}, threads, dynamic_memory(),
                  [&] { Kernel(given); });
      }
    }
  }
}

void run(const Grid& grid, int threads, const void* params) {
  constexpr auto kKernel = &octavo::cuda::EMULATED_ENTRY;
  run_grid<kKernel>(kKernel, grid, threads, params);
}

[[maybe_unused]] const bool kAdded = add({EMULATED_NAME, dynamic_memory().size(), run});

}  // namespace
}  // namespace octavo::emulation
