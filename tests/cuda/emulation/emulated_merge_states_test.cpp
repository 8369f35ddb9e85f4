// The device code that merges results over parts of the keys, against double.
#include <gtest/gtest.h>

#include "cuda/merge_states.h"
#include "merge_sample.h"

namespace octavo::emulation {
namespace {

class EmulatedMergeStates : public testing::TestWithParam<tests::MergeForm> {};

TEST_P(EmulatedMergeStates, MatchDouble) {
  tests::MergeSample sample(GetParam());
  const cuda::Function function = cuda::load(Device(), cuda::merge_states_variant(), 0);
  cuda::launch_merge(function, sample.arguments(), nullptr, nullptr);
  sample.check();
}

INSTANTIATE_TEST_SUITE_P(Forms, EmulatedMergeStates, testing::ValuesIn(tests::merge_forms()),
                         [](const auto& info) { return tests::name_of(info.param); });

TEST(EmulatedMergeStatesOf, RowsThatAreNotThereAreLeftAlone) {
  tests::MergeSample sample({DType::f32, DType::f32, 2, 5, 3, 8});
  const std::vector<std::byte> before = sample.bits();
  const cuda::Function function = cuda::load(Device(), cuda::merge_states_variant(), 0);
  const std::int32_t none = 0;
  cuda::launch_merge(function, sample.arguments(), &none, nullptr);
  EXPECT_EQ(sample.bits(), before);
  const std::int32_t more = 9;
  cuda::launch_merge(function, sample.arguments(), &more, nullptr);
  sample.check();
}

}  // namespace
}  // namespace octavo::emulation
