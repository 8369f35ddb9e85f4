// In place of the kernels' own; addresses in shared memory count from its beginning.
#pragma once

#include <cstring>
#include <span>
#include <stdexcept>

#include "block.h"

namespace octavo::cuda {

inline unsigned shared_address(const void* pointer) {
  const std::span<unsigned char> shared = emulation::shared_memory();
  const auto* at = static_cast<const unsigned char*>(pointer);
  if (at < shared.data() || at >= shared.data() + shared.size()) {
    throw std::runtime_error("an address outside shared memory");
  }
  return static_cast<unsigned>(at - shared.data());
}

/// Element (row, column) of the matrix whose rows' addresses lanes 8 * matrix and on have given.
inline unsigned matrix_element(const emulation::Warp& warp, int matrix, int row, int column) {
  unsigned short element;
  std::memcpy(&element, &emulation::shared_memory()[warp[8 * matrix + row].given[0] + 2 * column],
              2);
  return element;
}

template <bool Transposed>
void load_four_matrices(emulation::Warp& warp) {
  for (int l = 0; l < emulation::kWarpLanes; ++l) {
    warp[l].taken = {};
    for (int matrix = 0; matrix < 4; ++matrix) {
      for (int half = 0; half < 2; ++half) {
        const int across = l / 4;
        const int along = 2 * (l % 4) + half;
        const unsigned element = Transposed ? matrix_element(warp, matrix, along, across)
                                            : matrix_element(warp, matrix, across, along);
        warp[l].taken[matrix / 2] |= std::uint64_t{element} << (32 * (matrix % 2) + 16 * half);
      }
    }
  }
}

template <bool Transposed>
void load_by_warp(unsigned (&r)[4], unsigned address) {
  if (address % 16 != 0 || address + 16 > emulation::shared_memory().size()) {
    throw std::runtime_error("a matrix's row that is misaligned or beyond shared memory");
  }
  emulation::Lane& self = emulation::lane();
  self.given[0] = address;
  emulation::together(load_four_matrices<Transposed>);
  for (int i = 0; i < 4; ++i) r[i] = static_cast<unsigned>(self.taken[i / 2] >> 32 * (i % 2));
}

inline void load_matrices(unsigned (&r)[4], unsigned address) { load_by_warp<false>(r, address); }
inline void load_transposed(unsigned (&r)[4], unsigned address) { load_by_warp<true>(r, address); }

}  // namespace octavo::cuda
