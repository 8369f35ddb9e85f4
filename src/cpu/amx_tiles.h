// The tile registers of AMX.
#pragma once

#include <sys/syscall.h>
#include <unistd.h>

#include <cstdint>

#include "cpu/isa.h"

namespace octavo {

/// Whether the processor has AMX-BF16 and Linux grants this process its registers, which is asked
/// once.
inline bool may_use_tiles() {
  constexpr long kRequestPermission = 0x1023;  // ARCH_REQ_XCOMP_PERM
  constexpr long kTileData = 18;               // XFEATURE_XTILEDATA
  static const bool granted =
      has_amx_bf16() && syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
  return granted;
}

/// What _tile_loadconfig takes: eight tiles of 16 rows of 64 bytes. To be a constant in memory,
/// because GCC's intrinsic says that it reads only the first bytes.
struct alignas(64) TileConfig {
  std::uint8_t palette = 1;
  std::uint8_t start_row = 0;
  std::uint8_t reserved[14] = {};
  std::uint16_t bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  std::uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};
inline constexpr TileConfig kFullTiles;

}  // namespace octavo
