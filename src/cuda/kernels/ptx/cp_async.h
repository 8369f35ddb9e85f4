// cp.async: copies from global to shared memory past the registers, since sm_80.
#pragma once

namespace octavo::cuda {

/// Copies `bytes` bytes, 0 to 16, and fills the rest of the 16 with zeros. Both addresses are
/// aligned to 16; with 0 bytes the source is not read.
__device__ inline void copy_async_16(unsigned shared, const void* global, int bytes) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared), "l"(global),
               "r"(bytes)
               : "memory");
}

/// Closes this thread's group of copies.
__device__ inline void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }

/// Waits until at most `Pending` of this thread's latest groups are under way.
template <int Pending>
__device__ inline void wait_for_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(Pending) : "memory");
}

}  // namespace octavo::cuda
