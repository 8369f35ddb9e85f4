#include "cuda/sm90_tiles.h"

#include <gtest/gtest.h>

namespace octavo::cuda {
namespace {

constexpr int kLimit = 227 * 1024;  // bytes of shared memory of a thread block

HeadDims dims_of(std::int64_t d, std::int64_t dv) {
  Problem p;
  p.d = d;
  p.dv = dv;
  return sm90_dims(p);
}

TEST(Sm90Tiles, FitWithTwoStagesOrMore) {
  for (std::int64_t d = 1; d <= kSm90Widest; ++d) {
    for (const std::int64_t dv : {std::int64_t{1}, d, kSm90Widest}) {
      for (const int rows : {kSm90FewRows, 64, kSm90Rows}) {
        const HeadDims dims = dims_of(d, dv);
        const Sm90Tile tile = sm90_tile(rows, dims, 2, kLimit);
        ASSERT_GE(tile.stages, 2) << "d=" << d << " dv=" << dv;
        ASSERT_LE(tile.blocks * (tile.shared_bytes + kSm90Reserved), kLimit + kSm90Reserved)
            << "d=" << d << " dv=" << dv;
      }
    }
  }
}

TEST(Sm90Tiles, OfFp8FitWithTwoStagesOrMore) {
  for (std::int64_t d = 1; d <= kSm90Widest; ++d) {
    const Sm90Tile tile = sm90_tile(kSm90FewRows, dims_of(d, d), 1, kLimit);
    ASSERT_GE(tile.stages, 2) << "d=" << d;
    ASSERT_LE(tile.blocks * (tile.shared_bytes + kSm90Reserved), kLimit + kSm90Reserved)
        << "d=" << d;
  }
}

TEST(Sm90Tiles, OfShortRequestsHaveRoomForAllTheirKeys) {
  for (std::int64_t d = 1; d <= kSm90Widest; ++d) {
    for (const std::int64_t dv : {std::int64_t{1}, d, kSm90Widest}) {
      const HeadDims dims = dims_of(d, dv);
      const std::int64_t most = sm90_short_keys(dims);
      for (std::int64_t keys = 0; keys <= most; ++keys) {
        int tiles = 0;
        for (const int row_tiles : {1, 16}) {
          const Sm90Tile tile = sm90_short_requests(keys, row_tiles, dims, kLimit);
          if (tile.shape.rows == 0) continue;
          ++tiles;
          ASSERT_GE(tile.stages * tile.shape.keys, keys) << "d=" << d << " dv=" << dv;
          ASSERT_GE(tile.blocks, 1) << "d=" << d << " dv=" << dv << " keys=" << keys;
          ASSERT_LE(tile.blocks * (tile.shared_bytes + kSm90Reserved), kLimit + kSm90Reserved)
              << "d=" << d << " dv=" << dv << " keys=" << keys;
        }
        ASSERT_GE(tiles, 1) << "d=" << d << " dv=" << dv << " keys=" << keys;
      }
      EXPECT_EQ(sm90_short_requests(most + 1, 1, dims, kLimit).shape.rows, 0);
    }
  }
}

TEST(Sm90Tiles, SumsLeaveRoomInRegisters) {
  for (std::int64_t d = 1; d <= kSm90Widest; ++d) {
    const HeadDims dims = dims_of(d, d);
    const TileShape tile = sm90_tile(kSm90Rows, dims, 2, kLimit).shape;
    // O and S as floats, and the weights in halves.
    const int sums = dims.dv / 2 + tile.keys / 2 + tile.keys / 4;
    ASSERT_LE(sums, (tile.warps == 12 ? 160 : 232) - 20) << "d=" << d;
  }
}

TEST(Sm90Tiles, TwoBlocksOfFewRowsOnAMultiprocessor) {
  const HeadDims dims = dims_of(128, 128);
  EXPECT_EQ(sm90_tile(64, dims, 2, kLimit).blocks, 2);
  EXPECT_EQ(sm90_tile(kSm90FewRows, dims, 2, kLimit).blocks, 2);
  EXPECT_GE(sm90_tile(kSm90FewRows, dims, 2, kLimit).stages, 3);
  EXPECT_EQ(sm90_tile(kSm90FewRows, dims, 1, kLimit).blocks, 2);
  EXPECT_GE(sm90_tile(kSm90FewRows, dims, 1, kLimit).stages, 3);
}

}  // namespace
}  // namespace octavo::cuda
