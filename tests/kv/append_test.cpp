#include "octavo/append.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <string>
#include <vector>

#include "kv/append_sample.h"
#include "octavo/octavo.h"

namespace octavo::tests {
namespace {

class Append : public testing::TestWithParam<Form> {};

TEST_P(Append, StoresWhatItSays) {
  for (const auto& [d, dv] : {std::pair{16, 16}, std::pair{6, 10}, std::pair{3, 1}}) {
    Sample sample(GetParam(), d, dv);
    append(sample.arguments());
    sample.check(true);
    sample.check(false);
  }
}

INSTANTIATE_TEST_SUITE_P(Forms, Append, testing::ValuesIn(forms()),
                         [](const auto& info) { return name_of(info.param); });

TEST(Rope, TableAndStyles) {
  const std::vector<float> table = rope_table(3, 4, 100);
  const std::vector<double> expected = {
      1, 1, 0, 0, std::cos(1), std::cos(0.1), std::sin(1), std::sin(0.1)};
  for (std::size_t i = 0; i < expected.size(); ++i) EXPECT_FLOAT_EQ(table[i], expected[i]);

  const std::vector<std::int32_t> positions{1};
  std::vector<float> cosines = table;
  Rope rope{RopeStyle::interleaved, TensorView<2>::dense(cosines.data(), DType::f32, {3, 4}),
            positions};
  std::vector<float> x{1, 0, 0, 1, 7};
  rotate(rope, TensorView<3>::dense(x.data(), DType::f32, {1, 1, 5}));
  EXPECT_EQ(x, (std::vector{table[4], table[6], -table[7], table[5], 7.0f}));

  x = {1, 0, 0, 1, 7};
  rope.style = RopeStyle::halves;
  rotate(rope, TensorView<3>::dense(x.data(), DType::f32, {1, 1, 5}));
  EXPECT_EQ(x, (std::vector{table[4], -table[7], table[6], table[5], 7.0f}));
}

TEST(Append, RefusesAndTouchesNothing) {
  struct Wrong {
    std::string message;
    std::function<void(AppendArguments&)> change;
  };
  static const std::int32_t bad_page[] = {7, 9, 0, 0, 0, 0, 0, 8, 3};
  static const std::int32_t same_page[] = {7, 8, 0, 0, 0, 0, 0, 8, 3};
  static const std::int32_t negative[] = {-1, 0, 7};
  static const std::int32_t too_new[] = {6, 0, 5};
  static const std::int32_t long_lens[] = {5, 0, 10};
  static const std::int32_t few[] = {4, 0, 6};
  static const std::int32_t far[] = {9, 3, 3, 0, 40, 5, 6, 7, 8, 20, 11};
  static const float three[] = {1, 1, 1};
  static const float zero[] = {0.0f, 1.0f};
  const std::vector<Wrong> wrongs = {
      {"page_table[0][1]=9: must be from 0 to 8", [](auto& a) { a.page_table.data = bad_page; }},
      {"page 8: requests 0 and 2 both write", [](auto& a) { a.page_table.data = same_page; }},
      {"q_lens[0]=-1: must be from 0 to kv_lens[0]=5", [](auto& a) { a.q_lens = negative; }},
      {"q_lens[0]=6: must be from 0 to kv_lens[0]=5", [](auto& a) { a.q_lens = too_new; }},
      {"kv_lens[2]=10: page_table has 3 columns, pages of 3",
       [](auto& a) { a.kv_lens = long_lens; }},
      {"new_k.shape[0] (rows) is 11: the sum of q_lens is 10", [](auto& a) { a.q_lens = few; }},
      {"new_k.shape[1] (heads) is 1: k's is 2", [](auto& a) { a.new_k.shape[1] = 1; }},
      {"new_v.shape[2] (dv) is 5: v's is 16", [](auto& a) { a.new_v.shape[2] = 5; }},
      {"new_v.shape[0] (rows) is 12: new_k's is 11", [](auto& a) { a.new_v.shape[0] = 12; }},
      {"v.shape[0] (pages) is 4: k's is 9", [](auto& a) { a.v.shape[0] = 4; }},
      {"k and v may share memory", [](auto& a) { a.v = a.k; }},
      {"v and new_k may share memory", [](auto& a) { a.new_k.data = a.v.data; }},
      {"kv_lens (size) is 2: q_lens' size is 3", [](auto& a) { a.kv_lens = a.kv_lens.first(2); }},
      {"page_table has 2 rows", [](auto& a) { a.page_table.requests = 2; }},
      {"k_scale=0: must be finite and not 0",
       [](auto& a) {
         a.k_scale = {0.0f, {}};
       }},
      {"v_scale.values has 3 values: must have 1, or one for each of 2 heads",
       [](auto& a) { a.v_scale.values = three; }},
      {"v_scale.values[0]=0: must be finite and not 0", [](auto& a) { a.v_scale.values = zero; }},
      {"rope.positions[4]=40: must be from 0 to 39", [](auto& a) { a.rope->positions = far; }},
      {"kv_lens[2]=7: rope.table has 6 positions", [](auto& a) { a.rope->table.shape[0] = 6; }},
      {"rope.table.shape[1] (rotary)=18: must be even, from 2 to the head's 16",
       [](auto& a) { a.rope->table.shape[1] = 18, a.rope->table.stride[0] = 18; }},
      {"rope.table is f16: must be f32", [](auto& a) { a.rope->table.dtype = DType::f16; }},
  };
  for (const Wrong& wrong : wrongs) {
    Sample sample({DType::f32, DType::f32, PageOrder::nhd, ScaleKind::head, RopeStyle::halves}, 16,
                  16);
    AppendArguments a = sample.arguments();
    const std::span k{static_cast<std::byte*>(a.k.data), 64};
    wrong.change(a);
    try {
      append(a);
      FAIL() << "not refused: " << wrong.message;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::invalid_argument);
      EXPECT_NE(std::string(error.what()).find(wrong.message), std::string::npos)
          << error.what() << "\nshould say " << wrong.message;
    }
    for (const std::byte byte : k) ASSERT_EQ(byte, kUntouched);
  }
}

}  // namespace
}  // namespace octavo::tests
