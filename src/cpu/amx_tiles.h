// The tile registers of AMX.
#pragma once

#include <cstdint>

namespace octavo {

/// What _tile_loadconfig takes: eight tiles of 16 rows of 64 bytes. To be a constant in memory,
/// because GCC's intrinsic says that it reads only the first bytes.
struct alignas(64) TileConfig {
  std::uint8_t palette = 1;
  std::uint8_t start_row = 0;
  std::uint8_t reserved[14] = {};
  std::uint16_t bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  std::uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};
constexpr TileConfig kFullTiles;  // no symbol: see arithmetic.h

}  // namespace octavo
