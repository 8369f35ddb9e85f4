// In place of the kernels' own: copies happen as late as they may.
#pragma once

#include "block.h"

namespace octavo::cuda {

inline void copy_async_16(unsigned shared, const void* global, int bytes) {
  emulation::start_copy({shared, global, bytes});
}

inline void commit_copies() { emulation::close_copies(); }

template <int Pending>
void wait_for_copies() {
  emulation::finish_copies(Pending);
}

}  // namespace octavo::cuda
