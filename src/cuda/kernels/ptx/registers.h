// setmaxnreg: registers from some of a block's warpgroups for others, since sm_90a.
#pragma once

namespace octavo::cuda {

/// Lets a kernel's warps take more, or fewer, registers than it was launched with. All four warps
/// of a group call it.
template <int Registers>
__device__ inline void grow_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(Registers));
}
template <int Registers>
__device__ inline void shrink_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(Registers));
}

}  // namespace octavo::cuda
