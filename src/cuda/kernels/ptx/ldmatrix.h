// ldmatrix: a warp reads 8 x 8 matrices of 16-bit elements from shared memory, since sm_75.
//
// Lane l gives the address of row l % 8 of matrix l / 8, 16 bytes aligned to 16. It receives, in
// register i, elements 2 (l % 4) and the next of row l / 4 of matrix i; transposed, of column l
// / 4.
#pragma once

namespace octavo::cuda {

/// The address that instructions on shared memory take.
__device__ inline unsigned shared_address(const void* pointer) {
  return static_cast<unsigned>(__cvta_generic_to_shared(pointer));
}

__device__ inline void load_matrices(unsigned (&r)[4], unsigned address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address)
               : "memory");
}

__device__ inline void load_transposed(unsigned (&r)[4], unsigned address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address)
               : "memory");
}

}  // namespace octavo::cuda
