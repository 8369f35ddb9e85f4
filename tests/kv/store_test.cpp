#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "kv/append_sample.h"
#include "octavo/append.h"
#include "octavo/octavo.h"

namespace octavo::tests {
namespace {

/// The slots of a sample's rows.
std::vector<std::int64_t> slots_of(const AppendArguments& a) {
  std::vector<std::int64_t> slots;
  for (std::size_t r = 0; r < a.q_lens.size(); ++r) {
    for (std::int64_t token = a.kv_lens[r] - a.q_lens[r]; token < a.kv_lens[r]; ++token) {
      const std::int64_t column = token / Sample::kPageSize;
      const std::int32_t page =
          a.page_table.data[static_cast<std::int64_t>(r) * a.page_table.stride + column];
      slots.push_back(page * Sample::kPageSize + token % Sample::kPageSize);
    }
  }
  return slots;
}

StoreArguments arguments_of(const AppendArguments& a, const std::vector<std::int64_t>& slots) {
  return {a.new_k, a.new_v, a.k, a.v, slots, a.k_scale, a.v_scale};
}

TEST(Store, StoresWhatAppendStores) {
  for (const Form& form : forms()) {
    if (form.rope) continue;
    SCOPED_TRACE(name_of(form));
    Sample sample(form, 6, 10);
    const AppendArguments a = sample.arguments();
    store(arguments_of(a, slots_of(a)));
    sample.check(true);
    sample.check(false);
  }
}

TEST(Store, LeavesOutRowsWithoutASlot) {
  const Form form{DType::f32, DType::bf16};
  Sample sample(form, 16, 16);
  const AppendArguments a = sample.arguments();
  store(arguments_of(a, std::vector<std::int64_t>(Sample::kRows, -1)));
  const auto untouched = [](std::byte byte) { return byte == kUntouched; };
  EXPECT_TRUE(std::all_of(sample.k().begin(), sample.k().end(), untouched));
  EXPECT_TRUE(std::all_of(sample.v().begin(), sample.v().end(), untouched));
}

TEST(Store, ManyRowsInAnyOrder) {
  constexpr std::int64_t kPages = 5, kPageSize = 7, kRows = kPages * kPageSize;
  std::vector<float> rows(kRows);
  std::vector<float> k(kRows);
  std::vector<float> v(kRows);
  std::vector<std::int64_t> slots(kRows);
  for (std::int64_t i = 0; i < kRows; ++i) {
    rows[i] = static_cast<float>(i);
    slots[i] = (i * 12 + 3) % kRows;
  }
  const auto source = TensorView<3>::dense(rows.data(), DType::f32, {kRows, 1, 1});
  store({source, source, KvView::dense(k.data(), DType::f32, {kPages, kPageSize, 1, 1}),
         KvView::dense(v.data(), DType::f32, {kPages, kPageSize, 1, 1}), slots});
  for (std::int64_t i = 0; i < kRows; ++i) {
    EXPECT_EQ(k[slots[i]], rows[i]);
    EXPECT_EQ(v[slots[i]], rows[i]);
  }
}

TEST(Store, RefusesAndTouchesNothing) {
  struct Wrong {
    std::string message;
    std::function<void(StoreArguments&, std::vector<std::int64_t>&)> change;
  };
  const std::vector<Wrong> wrongs = {
      {"slots[2]=27: the pool has 27 slots", [](auto&, auto& slots) { slots[2] = 27; }},
      {"slots has 23 twice", [](auto&, auto& slots) { slots[0] = slots[1]; }},
      {"new_k.shape[0] (rows) is 11: the number of slots is 10",
       [](auto& a, auto&) { a.slots = a.slots.first(10); }},
      {"new_k.shape[1] (heads) is 1: k's is 2", [](auto& a, auto&) { a.new_k.shape[1] = 1; }},
      {"k_scale=0: must be finite", [](auto& a, auto&) { a.k_scale.value = 0; }},
      {"v and new_k may share memory", [](auto& a, auto&) { a.new_k.data = a.v.data; }},
  };
  for (const Wrong& wrong : wrongs) {
    Sample sample({DType::f32, DType::f32}, 16, 16);
    const AppendArguments append = sample.arguments();
    std::vector<std::int64_t> slots = slots_of(append);
    StoreArguments a = arguments_of(append, slots);
    wrong.change(a, slots);
    try {
      store(a);
      FAIL() << "not refused: " << wrong.message;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::invalid_argument);
      EXPECT_NE(std::string(error.what()).find(wrong.message), std::string::npos)
          << error.what() << "\nshould say " << wrong.message;
    }
    const auto untouched = [](std::byte byte) { return byte == kUntouched; };
    EXPECT_TRUE(std::all_of(sample.k().begin(), sample.k().end(), untouched));
  }
}

}  // namespace
}  // namespace octavo::tests
