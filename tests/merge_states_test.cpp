#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "device_run.h"
#include "merge_sample.h"
#include "octavo/octavo.h"

namespace octavo::tests {
namespace {

class MergeStates : public testing::TestWithParam<MergeForm> {};

TEST_P(MergeStates, MatchDoubleOnAnyNumberOfThreads) {
  std::vector<std::byte> first;
  for (const int threads : {1, 3, 3}) {
    MergeSample sample(GetParam());
    ThreadPool pool(threads);
    merge_states(sample.arguments(), pool);
    sample.check();
    if (first.empty()) first = sample.bits();
    EXPECT_EQ(sample.bits(), first) << threads << " threads";
  }
}

INSTANTIATE_TEST_SUITE_P(Forms, MergeStates, testing::ValuesIn(merge_forms()),
                         [](const auto& info) { return name_of(info.param); });

/// Two rows of one head, -0 and the largest number among them.
struct Pair {
  std::vector<float> parts{-0.0f, std::numeric_limits<float>::max(), 2, 3, NAN, NAN, NAN, NAN};
  std::vector<float> lses{-5.25f, 700, -INFINITY, -INFINITY};
  std::vector<float> out = std::vector<float>(4, 99);
  std::vector<float> lse = std::vector<float>(2, 99);

  MergeArguments arguments() {
    MergeArguments a;
    a.parts = TensorView<4>::dense(parts.data(), DType::f32, {2, 2, 1, 2});
    a.parts_lse = TensorView<3>::dense(lses.data(), DType::f32, {2, 2, 1});
    a.out = TensorView<3>::dense(out.data(), DType::f32, {2, 1, 2});
    a.lse = TensorView<2>::dense(lse.data(), DType::f32, {2, 1});
    return a;
  }
};

TEST(MergeStatesOf, OnePartThatAddsAnythingAreItsBits) {
  Pair pair;
  merge_states(pair.arguments());
  for (std::size_t i = 0; i < 4; ++i) {
    EXPECT_EQ(std::bit_cast<std::uint32_t>(pair.out[i]),
              std::bit_cast<std::uint32_t>(pair.parts[i]));
  }
  EXPECT_EQ(pair.lse, (std::vector<float>{-5.25f, 700}));
}

TEST(MergeStatesOf, LargestNumbersDoNotOverflow) {
  Pair pair;
  pair.parts[5] = pair.parts[1];
  pair.lses[2] = pair.lses[0];
  merge_states(pair.arguments());
  EXPECT_EQ(pair.out[1], pair.parts[1]);
}

TEST(MergeStatesOf, NoLseIsWrittenUnlessWanted) {
  Pair pair;
  MergeArguments a = pair.arguments();
  a.lse = {};
  merge_states(a);
  EXPECT_EQ(pair.lse[0], 99);
  EXPECT_EQ(pair.out[2], 2);
}

std::string error_of(const MergeArguments& a) {
  try {
    merge_states(a);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::invalid_argument);
    return error.what();
  }
  return "none";
}

TEST(MergeStatesOf, WrongArgumentsAreNamedAndNothingIsWritten) {
  Pair pair;
  const auto expect = [&](const std::string& message, auto change) {
    MergeArguments a = pair.arguments();
    change(a);
    EXPECT_EQ(error_of(a), message);
  };
  expect("parts.shape[0]=0: must be at least 1", [](auto& a) { a.parts.shape[0] = 0; });
  expect("parts_lse is f16: must be f32", [](auto& a) { a.parts_lse.dtype = DType::f16; });
  expect("parts_lse.shape[0] is 1: must be as parts', 2",
         [](auto& a) { a.parts_lse.shape[0] = 1; });
  expect("out.shape[2] (dv) is 1: must be as parts', 2", [](auto& a) { a.out.shape[2] = 1; });
  expect("lse.shape[0] (rows) is 1: must be as parts', 2", [](auto& a) { a.lse.shape[0] = 1; });
  expect("out is a null pointer", [](auto& a) { a.out.data = nullptr; });
  expect("out and parts may share memory", [](auto& a) { a.out.data = a.parts.data; });
  expect("lse and parts_lse may share memory", [](auto& a) { a.lse.data = a.parts_lse.data; });
  EXPECT_EQ(pair.out, std::vector<float>(4, 99));
  EXPECT_THROW(merge_states(pair.arguments(), Device::cpu(), Stream{}), Error);
}

/// Attention over the keys in two parts, merged, is attention over all of them.
TEST(MergeStatesOf, SplitKeysAreAttentionOverAll) {
  const std::string text = "ragged q=f32 hq=4 hkv=2 d=32 mask=none lse q_len=5 kv_len=";
  std::vector<float> q(5 * 4 * 32);
  std::vector<float> k(90 * 2 * 32);
  std::vector<float> v(k.size());
  unsigned state = 1;
  for (std::vector<float>* values : {&q, &k, &v}) {
    for (float& x : *values)
      x = static_cast<float>((state = state * 1664525 + 1013904223) >> 8) / 4e6f - 2;
  }
  std::vector<float> out(3 * q.size());  // the whole, and two parts
  std::vector<float> lse(3 * 5 * 4);
  const auto attend = [&](std::size_t place, std::int32_t first, std::int32_t count) {
    const std::int32_t rows = 5;
    Arguments a;
    a.q = TensorView<3>::dense(q.data(), DType::f32, {5, 4, 32});
    a.k = KvView::dense(&k[first * 2 * 32], DType::f32, {1, count, 2, 32});
    a.v = KvView::dense(&v[first * 2 * 32], DType::f32, {1, count, 2, 32});
    a.q_lens = {&rows, 1};
    a.kv_lens = {&count, 1};
    a.out = TensorView<3>::dense(&out[place * q.size()], DType::f32, {5, 4, 32});
    a.lse = TensorView<2>::dense(&lse[place * 20], DType::f32, {5, 4});
    select(Problem::parse(text + std::to_string(count)), Device::cpu()).plan().run(a);
  };
  attend(0, 0, 90);
  attend(1, 0, 37);
  attend(2, 37, 53);
  std::vector<float> merged(q.size());
  std::vector<float> merged_lse(20);
  MergeArguments a;
  a.parts = TensorView<4>::dense(&out[q.size()], DType::f32, {2, 5, 4, 32});
  a.parts_lse = TensorView<3>::dense(&lse[20], DType::f32, {2, 5, 4});
  a.out = TensorView<3>::dense(merged.data(), DType::f32, {5, 4, 32});
  a.lse = TensorView<2>::dense(merged_lse.data(), DType::f32, {5, 4});
  merge_states(a);
  for (std::size_t i = 0; i < q.size(); ++i) EXPECT_NEAR(merged[i], out[i], 4e-6) << i;
  for (std::size_t i = 0; i < 20; ++i) EXPECT_NEAR(merged_lse[i], lse[i], 1e-5) << i;
}

}  // namespace
}  // namespace octavo::tests
