// Programmatic dependent launch, since sm_90: a grid may begin while the one before it in a stream
// still runs. Older cards have no such launches, and nothing to do here.
#pragma once

namespace octavo::cuda {

/// Lets the next grid begin, when all thread blocks of this one have called it or ended.
__device__ inline void let_next_grid_begin() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;");
#endif
}

/// Until the grids before this one have ended, and what they wrote is there.
__device__ inline void wait_for_grids_before() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

}  // namespace octavo::cuda
