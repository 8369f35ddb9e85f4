// In place of the kernels' own: products happen as late as they may, when their group is waited
// for.
#pragma once

#include <array>
#include <cstring>

#include "ptx/mbarrier.h"
#include "ptx/mma.h"

namespace octavo::cuda {

struct TileHandle {
  unsigned address;
  int slab_step;
  int row_step;

  /// The element at a byte of a row, where eight rows are `row_step` bytes from the next eight, and
  /// 128 bytes of a row `slab_step` from the next 128.
  unsigned short element(int row, int byte) const {
    const unsigned at = address + static_cast<unsigned>(row / 8 * row_step + row % 8 * 128 +
                                                        byte / 128 * slab_step + byte % 128);
    unsigned short value;
    std::memcpy(&value, &emulation::shared_memory()[at ^ (at / 128 % 8 * 16)], sizeof value);
    return value;
  }
};

inline TileHandle tile_handle(unsigned address, int slab_step, int row_step) {
  return {address, slab_step, row_step};
}
inline TileHandle advance(TileHandle tile, int bytes) {
  return {tile.address + static_cast<unsigned>(bytes), tile.slab_step, tile.row_step};
}

inline void fence_products() {}
inline void commit_products() { emulation::close_products(); }
template <int Pending>
void wait_for_products() {
  emulation::finish_products(Pending);
}
inline void pin(float&) {}

/// Adds to a lane's sums: `a`: 16 elements of its row and of the one 8 further; `b(k, column)`.
template <Half Kind, int Columns, typename B>
void add_products(float (*d)[4], const std::array<std::array<unsigned short, 16>, 2>& a,
                  const B& b) {
  const int pair = emulation::lane_index() % 4;
  for (int column = 0; column < Columns; ++column) {
    if (column % 8 / 2 != pair) continue;
    for (int k = 0; k < 16; ++k) {
      const float factor = widen_half<Kind>(b(k, column));
      for (int half = 0; half < 2; ++half) {
        d[column / 8][2 * half + column % 2] += widen_half<Kind>(a[half][k]) * factor;
      }
    }
  }
}

template <Half Kind, int Columns>
void multiply_shared(float (*d)[4], TileHandle a, TileHandle b, int adds) {
  const int row =
      static_cast<int>(emulation::thread_index().x) / 32 % 4 * 16 + emulation::lane_index() / 4;
  emulation::start_product([=] {
    std::array<std::array<unsigned short, 16>, 2> rows;
    for (int half = 0; half < 2; ++half) {
      for (int k = 0; k < 16; ++k) rows[half][k] = a.element(row + 8 * half, 2 * k);
    }
    if (adds == 0) std::memset(d, 0, Columns / 8 * sizeof *d);
    add_products<Kind, Columns>(d, rows,
                                [&](int k, int column) { return b.element(column, 2 * k); });
  });
}

/// Every lane's registers, for all.
inline void show_registers(emulation::Warp& warp) {
  for (int l = 0; l < emulation::kWarpLanes; ++l) {
    const int first = l / 4 * 4;
    for (int i = 0; i < 4; ++i) warp[l].shown[i] = warp[first + i].given;
  }
}

template <Half Kind, int Columns>
void multiply_registers(float (*d)[4], const unsigned (&a)[4], TileHandle b) {
  emulation::Lane& self = emulation::lane();
  for (int i = 0; i < 4; ++i) self.given[i] = a[i];
  emulation::together(show_registers);
  std::array<std::array<unsigned short, 16>, 2> rows;
  for (int half = 0; half < 2; ++half) {
    for (int k = 0; k < 16; ++k) {
      const std::uint64_t pair = self.shown[k % 8 / 2][k / 8 * 2 + half];
      rows[half][k] = static_cast<unsigned short>(pair >> k % 2 * 16);
    }
  }
  emulation::start_product([=] {
    add_products<Kind, Columns>(d, rows,
                                [&](int k, int column) { return b.element(k, 2 * column); });
  });
}

}  // namespace octavo::cuda
