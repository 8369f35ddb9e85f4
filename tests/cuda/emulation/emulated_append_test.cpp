// The append's device code stores what the CPU's append stores, bit for bit.
#include <gtest/gtest.h>

#include "cuda/append.h"
#include "kv/append_sample.h"

namespace octavo::emulation {
namespace {

const Device kEmulated;

using tests::Form;
using tests::Sample;

class EmulatedAppend : public testing::TestWithParam<Form> {};

TEST_P(EmulatedAppend, StoresTheBitsOfTheCpu) {
  for (const auto& [d, dv] : {std::pair{16, 16}, std::pair{72, 40}, std::pair{3, 1}}) {
    Sample on_cpu(GetParam(), d, dv);
    append(on_cpu.arguments());
    Sample emulated(GetParam(), d, dv);
    cuda::launch_append(kEmulated, emulated.arguments(), nullptr);
    EXPECT_EQ(emulated.k(), on_cpu.k());
    EXPECT_EQ(emulated.v(), on_cpu.v());
  }
}

INSTANTIATE_TEST_SUITE_P(Forms, EmulatedAppend, testing::ValuesIn(tests::forms()),
                         [](const auto& info) { return tests::name_of(info.param); });

/// More stretches than one launch has room for, some of them longer than a stretch may be.
TEST(EmulatedAppends, MoreStretchesThanALaunchHolds) {
  for (const std::int64_t page_size : {1, 50}) {
    constexpr std::int32_t kTokens = 403;
    const std::int64_t pages = (kTokens + page_size - 1) / page_size;
    std::vector<float> rows(kTokens * 2);
    for (std::size_t i = 0; i < rows.size(); ++i) rows[i] = static_cast<float>(i);
    std::vector<float> k(pages * page_size, -1.0f);
    std::vector<float> v(k);
    std::vector<std::int32_t> table;
    for (std::int64_t page = 0; page < pages; ++page) {
      table.push_back(static_cast<std::int32_t>(pages - 1 - page));
    }
    AppendArguments a;
    a.new_k = {rows.data(), DType::f32, {kTokens, 1, 1}, {2, 1, 1}};
    a.new_v = {rows.data() + 1, DType::f32, {kTokens, 1, 1}, {2, 1, 1}};
    a.k = KvView::dense(k.data(), DType::f32, {pages, page_size, 1, 1});
    a.v = KvView::dense(v.data(), DType::f32, {pages, page_size, 1, 1});
    a.page_table = {table.data(), 1, pages, pages};
    a.q_lens = a.kv_lens = {&kTokens, 1};
    cuda::launch_append(kEmulated, a, nullptr);
    for (std::int64_t token = 0; token < kTokens; ++token) {
      const std::int64_t at = table[token / page_size] * page_size + token % page_size;
      ASSERT_EQ(k[at], static_cast<float>(2 * token)) << page_size;
      ASSERT_EQ(v[at], static_cast<float>(2 * token + 1)) << page_size;
    }
  }
}

}  // namespace
}  // namespace octavo::emulation
