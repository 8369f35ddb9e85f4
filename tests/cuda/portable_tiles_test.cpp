#include "cuda/portable_tiles.h"

#include <gtest/gtest.h>

namespace octavo::cuda {
namespace {

constexpr int kSmallestLimit = 99 * 1024;  // bytes, of compute capability 8.6, 8.9 and 12.x
constexpr int kHopperLimit = 227 * 1024;

Problem with_dims(std::int64_t d, std::int64_t dv) {
  Problem p;
  p.d = d;
  p.dv = dv;
  return p;
}

TEST(PortableTiles, DecodeFitsEveryDevice) {
  for (const int kv_bytes : {1, 2}) {
    for (std::int64_t d = 1; d <= 576; ++d) {
      for (const std::int64_t dv : {std::int64_t{1}, d, std::int64_t{576}}) {
        const HeadDims dims = portable_dims(with_dims(d, dv));
        const TileShape tile = portable_tile(16, dims, kv_bytes, true, kSmallestLimit);
        ASSERT_EQ(tile.rows, 16) << "d=" << d << " dv=" << dv;
        ASSERT_LE(portable_shared_bytes(tile, dims, kv_bytes), kSmallestLimit);
      }
    }
  }
}

TEST(PortableTiles, EveryColumnIsInOneSlice) {
  for (std::int64_t dv = 1; dv <= 576; ++dv) {
    constexpr int kWidestSlice = 256;  // columns of O in registers
    const HeadDims dims = portable_dims(with_dims(64, dv));
    EXPECT_LE(dims.dv, kWidestSlice) << dv;
    EXPECT_GE(dims.dv * dims.slices, dv);
    EXPECT_LT(dims.dv * (dims.slices - 1), dv);
  }
}

TEST(PortableTiles, ManyRowsWhereThereIsRoom) {
  for (const int d : {64, 128, 256}) {
    for (const bool masked : {false, true}) {
      const HeadDims dims = portable_dims(with_dims(d, d));
      const TileShape tile = portable_tile(128, dims, 2, masked, kHopperLimit);
      EXPECT_EQ(tile.rows, 128) << d;
      // Thread blocks on a multiprocessor, each with a KiB of the system's.
      const int blocks = d == 256 ? 1 : 2;
      EXPECT_LE(blocks * (portable_shared_bytes(tile, dims, 2) + 1024), 228 * 1024) << d;
    }
  }
}

TEST(PortableTiles, FewerKeysRatherThanNoTile) {
  const HeadDims dims = portable_dims(with_dims(128, 128));
  EXPECT_LT(portable_tile(128, dims, 2, false, kSmallestLimit).keys,
            portable_tile(128, dims, 2, false, kHopperLimit).keys);
}

}  // namespace
}  // namespace octavo::cuda
