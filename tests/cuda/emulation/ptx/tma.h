// In place of the kernels' own: maps are the fake libcuda's, boxes come when they are drawn.
#pragma once

#include <cstring>
#include <stdexcept>

#include "fake_tensor_map.h"
#include "ptx/mbarrier.h"

namespace octavo::cuda {

inline void prefetch_map(const void*) {}

/// Rows of 128 bytes in the order of the map's axes, zeros for those outside the tensor. 16 bytes
/// of a row stand where bits 7 to 9 of its address move them.
inline void copy_rows(const FakeTensorMap& map, const std::array<int, 5>& first, unsigned to) {
  constexpr unsigned kRowBytes = 128;
  const int bytes = static_cast<int>(kRowBytes) / map.box[0];  // of an element
  std::array<int, 5> at{};
  for (;; to += kRowBytes) {
    bool inside = true;
    const unsigned char* row = map.data;
    for (int axis = 1; axis < map.rank; ++axis) {
      const int place = first[axis] + at[axis];
      inside = inside && place >= 0 && static_cast<std::uint32_t>(place) < map.shape[axis];
      row += place * static_cast<std::int64_t>(map.strides[axis - 1]);
    }
    for (unsigned byte = 0; byte < kRowBytes; ++byte) {
      const int column = first[0] + static_cast<int>(byte) / bytes;
      const bool exists =
          inside && column >= 0 && static_cast<std::uint32_t>(column) < map.shape[0];
      const unsigned target = to + (byte ^ to / kRowBytes % 8 * 16);
      emulation::shared_memory()[target] =
          exists ? row[first[0] * bytes + static_cast<int>(byte)] : 0;
    }
    int axis = 1;
    while (axis < map.rank && ++at[axis] == map.box[axis]) at[axis++] = 0;
    if (axis == map.rank) return;
  }
}

inline void copy_box_at(const void* tensor_map, const std::array<int, 5>& first, unsigned to,
                        Barrier& barrier) {
  FakeTensorMap map;
  std::memcpy(&map, tensor_map, sizeof map);
  int rows = 1;
  for (int axis = 1; axis < map.rank; ++axis) rows *= map.box[axis];
  const int bytes = rows * 128;
  if (to % 1024 != 0 || (map.box[0] != 64 && map.box[0] != 128) ||
      to + static_cast<std::size_t>(bytes) > emulation::shared_memory().size()) {
    throw std::runtime_error("a box that is misaligned, or beyond shared memory");
  }
  std::memset(&emulation::shared_memory()[to], 0xff, static_cast<std::size_t>(bytes));
  emulation::start_bulk_copy([map, first, to] { copy_rows(map, first, to); },
                             shared_address(&barrier), bytes);
}

inline void copy_box(const void* map, int c0, int c1, int c2, unsigned to, Barrier& barrier) {
  copy_box_at(map, {c0, c1, c2}, to, barrier);
}
inline void copy_box(const void* map, int c0, int c1, int c2, int c3, unsigned to,
                     Barrier& barrier) {
  copy_box_at(map, {c0, c1, c2, c3}, to, barrier);
}
inline void copy_box(const void* map, int c0, int c1, int c2, int c3, int c4, unsigned to,
                     Barrier& barrier) {
  copy_box_at(map, {c0, c1, c2, c3, c4}, to, barrier);
}

}  // namespace octavo::cuda
