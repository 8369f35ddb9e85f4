#include "core/footprint.h"

#include <gtest/gtest.h>

#include <set>
#include <vector>

#include "verify/random.h"

namespace octavo::tests {
namespace {

std::set<std::uintptr_t> bytes_of(const Footprint& f) {
  std::set<std::uintptr_t> bytes;
  for (std::int64_t i = 0; i < f.axes[0].count; ++i) {
    for (std::int64_t j = 0; j < f.axes[1].count; ++j) {
      for (std::int64_t k = 0; k < f.axes[2].count; ++k) {
        for (std::int64_t b = 0; b < f.run; ++b) {
          bytes.insert(f.begin +
                       static_cast<std::uintptr_t>(i * f.axes[0].step + j * f.axes[1].step +
                                                   k * f.axes[2].step + b));
        }
      }
    }
  }
  return bytes;
}

bool share_bytes(const Footprint& a, const Footprint& b) {
  const std::set<std::uintptr_t> of_a = bytes_of(a);
  for (const std::uintptr_t byte : bytes_of(b)) {
    if (of_a.count(byte) != 0) return true;
  }
  return false;
}

/// A slice [begin, end) along each axis of a dense array [4, 3, 4, 8] at address 1000.
Footprint random_slice(verify::Random& random) {
  constexpr std::int64_t kShape[] = {4, 3, 4, 8};
  std::int64_t step = 384;
  Footprint f{"slice", 1000, 0, {}};
  for (int axis = 0; axis < 4; ++axis) {
    step /= kShape[axis];
    const std::int64_t begin = random.integer(0, kShape[axis] - 1);
    const std::int64_t count = random.integer(1, kShape[axis] - begin);
    f.begin += static_cast<std::uintptr_t>(begin * step);
    if (axis < 3) {
      f.axes[static_cast<std::size_t>(axis)] = {count, step};
    } else {
      f.run = count;
    }
  }
  return f;
}

TEST(Footprint, SlicesOfOneArrayOverlapExactlyWhereTheyShareBytes) {
  verify::Random random(1);
  int shared = 0;
  for (int i = 0; i < 20000; ++i) {
    const Footprint a = random_slice(random);
    const Footprint b = random_slice(random);
    const bool share = share_bytes(a, b);
    ASSERT_EQ(may_overlap(a, b), share) << "round " << i;
    shared += share ? 1 : 0;
  }
  EXPECT_GT(shared, 2000);
  EXPECT_LT(shared, 18000);
}

TEST(Footprint, NoSharedByteIsOverlooked) {
  verify::Random random(2);
  int apart = 0;
  for (int i = 0; i < 50000; ++i) {
    Footprint views[2];
    for (Footprint& view : views) {
      view.begin = static_cast<std::uintptr_t>(random.integer(1000, 1100));
      view.run = random.integer(0, 6);
      for (Footprint::Axis& axis : view.axes) {
        axis = {random.integer(1, 3), random.pick<std::int64_t>({0, 1, 4, 5, 8, 12, 16, 24, 48})};
      }
    }
    if (may_overlap(views[0], views[1])) continue;
    ASSERT_FALSE(share_bytes(views[0], views[1])) << "round " << i;
    ++apart;
  }
  EXPECT_GT(apart, 5000);
}

}  // namespace
}  // namespace octavo::tests
