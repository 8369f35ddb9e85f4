// Copies of boxes of a tensor into shared memory by the tensor memory accelerator, since sm_90.
#pragma once

#include "ptx/mbarrier.h"

namespace octavo::cuda {

__device__ inline void prefetch_map(const void* map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}

// Copies of the box of a CUtensorMap that begins at the element of these coordinates to `shared`;
// its bytes count at the barrier. What lies outside the tensor is zeros.

__device__ inline void copy_box(const void* map, int c0, int c1, int c2, unsigned shared,
                                Barrier& barrier) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes "
      "[%0], [%1, {%3, %4, %5}], [%2];" ::"r"(shared),
      "l"(map), "r"(shared_address(&barrier)), "r"(c0), "r"(c1), "r"(c2)
      : "memory");
}

__device__ inline void copy_box(const void* map, int c0, int c1, int c2, int c3, unsigned shared,
                                Barrier& barrier) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes "
      "[%0], [%1, {%3, %4, %5, %6}], [%2];" ::"r"(shared),
      "l"(map), "r"(shared_address(&barrier)), "r"(c0), "r"(c1), "r"(c2), "r"(c3)
      : "memory");
}

__device__ inline void copy_box(const void* map, int c0, int c1, int c2, int c3, int c4,
                                unsigned shared, Barrier& barrier) {
  asm volatile(
      "cp.async.bulk.tensor.5d.shared::cluster.global.mbarrier::complete_tx::bytes "
      "[%0], [%1, {%3, %4, %5, %6, %7}], [%2];" ::"r"(shared),
      "l"(map), "r"(shared_address(&barrier)), "r"(c0), "r"(c1), "r"(c2), "r"(c3), "r"(c4)
      : "memory");
}

}  // namespace octavo::cuda
