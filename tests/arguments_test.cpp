#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <optional>
#include <string>
#include <vector>

#include "octavo/octavo.h"
#include "paged_case.h"
#include "verify/case.h"

namespace octavo::tests {
namespace {

const char kText[] =
    "paged pool=split hq=4 hkv=2 d=64 page=16 mask=causal lse q_len=3,2 kv_len=33,9 q=";

constexpr std::int64_t kHuge = std::numeric_limits<std::int64_t>::max();
constexpr std::size_t kMuch = std::size_t{1} << 30;

std::byte* aligned(std::byte* data) {
  return data + (64 - reinterpret_cast<std::uintptr_t>(data) % 64) % 64;
}

/// One thing to spoil. The case is fresh, so its buffers may be changed too.
struct Spoil {
  std::string what;
  std::function<void(PagedCase&, Arguments&)> apply;
};

std::vector<Spoil> spoils() {
  using C = PagedCase;
  using A = Arguments;
  return {
      {"page id -1", [](C& c, A&) { c.table[1] = -1; }},
      {"page id past the pool", [](C& c, A&) { c.table[2] = static_cast<int>(c.pages); }},
      {"page id of the second request", [](C& c, A&) { c.table[c.columns] = 1 << 30; }},
      {"kv length above the bound", [](C& c, A&) { c.kv_lens[0] = 34; }},
      {"negative kv length", [](C& c, A&) { c.kv_lens[1] = -1; }},
      {"negative q length", [](C& c, A&) { c.q_lens[1] = -1; }},
      {"q length above the bound",
       [](C& c, A&) {
         c.q_lens = {4, 1};
       }},
      {"more tokens than the bound",
       [](C& c, A& a) {
         c.q_lens = {3, 3};
         a.q.shape[0] = a.out.shape[0] = a.lse.shape[0] = 6;
       }},
      {"q dtype", [](C&, A& a) { a.q.dtype = DType::e5m2; }},
      {"k dtype", [](C&, A& a) { a.k.dtype = DType::e5m2; }},
      {"v dtype", [](C&, A& a) { a.v.dtype = DType::e4m3; }},
      {"out dtype", [](C&, A& a) { a.out.dtype = DType::e4m3; }},
      {"lse dtype", [](C&, A& a) { a.lse.dtype = DType::bf16; }},
      {"q heads", [](C&, A& a) { a.q.shape[1] = 3; }},
      {"q head dim", [](C&, A& a) { a.q.shape[2] = 32; }},
      {"k heads", [](C&, A& a) { a.k.shape[2] = 1; }},
      {"v heads", [](C&, A& a) { a.v.shape[2] = 1; }},
      {"v head dim", [](C&, A& a) { a.v.shape[3] = 32; }},
      {"out heads", [](C&, A& a) { a.out.shape[1] = 2; }},
      {"k head dim", [](C&, A& a) { a.k.shape[3] = 32; }},
      {"page size", [](C&, A& a) { a.k.shape[1] = a.v.shape[1] = 8; }},
      {"v page size", [](C&, A& a) { a.v.shape[1] = 8; }},
      {"v pages", [](C&, A& a) { a.v.shape[0] -= 1; }},
      {"innermost stride of q", [](C&, A& a) { a.q.stride[2] = 2; }},
      {"innermost stride of k", [](C&, A& a) { a.k.stride[3] = 2; }},
      {"null q", [](C&, A& a) { a.q.data = nullptr; }},
      {"null k", [](C&, A& a) { a.k.data = nullptr; }},
      {"null v", [](C&, A& a) { a.v.data = nullptr; }},
      {"null out", [](C&, A& a) { a.out.data = nullptr; }},
      {"null page table", [](C&, A& a) { a.page_table.data = nullptr; }},
      {"too few page table columns", [](C&, A& a) { a.page_table.columns = 2; }},
      {"too few page table rows", [](C&, A& a) { a.page_table.requests = 1; }},
      {"too few q rows", [](C&, A& a) { a.q.shape[0] = 4; }},
      {"too few out rows", [](C&, A& a) { a.out.shape[0] = 4; }},
      {"too few lse rows", [](C&, A& a) { a.lse.shape[0] = 4; }},
      {"more q_lens than kv_lens", [](C&, A& a) { a.kv_lens = a.kv_lens.first(1); }},
      {"more kv_lens than q_lens", [](C&, A& a) { a.q_lens = a.q_lens.first(1); }},
      {"missing lse", [](C&, A& a) { a.lse = {}; }},
      {"misaligned q", [](C&, A& a) { a.q.data = static_cast<std::byte*>(a.q.data) + 1; }},
      {"negative stride of v", [](C&, A& a) { a.v.stride[1] = -128; }},
      {"stride of q past the last address", [](C&, A& a) { a.q.stride[0] = kHuge; }},
      {"strides of k that overflow", [](C&, A& a) { a.k.stride[0] = a.k.stride[1] = kHuge / 16; }},
      {"shape of v that overflows", [](C&, A& a) { a.k.shape[0] = a.v.shape[0] = kHuge; }},
      {"stride of the page table", [](C&, A& a) { a.page_table.stride = kHuge; }},
      {"columns of the page table", [](C&, A& a) { a.page_table.columns = -1; }},
      {"null lengths",
       [](C&, A& a) {
         a.kv_lens = {static_cast<std::int32_t*>(nullptr), 2};
       }},
      {"lengths without end",
       [](C&, A& a) {
         a.q_lens = {a.q_lens.data(), ~std::size_t{0}};
         a.kv_lens = {a.kv_lens.data(), ~std::size_t{0}};
       }},
      {"workspace at null",
       [](C&, A& a) {
         a.workspace = {static_cast<std::byte*>(nullptr), kMuch};
       }},
      {"elements of out that share memory", [](C&, A& a) { a.out.stride[1] = 63; }},
      {"out on q", [](C&, A& a) { a.out.data = a.q.data; }},
      {"out on k", [](C&, A& a) { a.out.data = a.k.data; }},
      {"out on the end of v",
       [](C& c, A& a) { a.out.data = c.v.data() + c.v.size() - c.out.size(); }},
      {"lse on out", [](C&, A& a) { a.lse.data = a.out.data; }},
      {"lse on q", [](C&, A& a) { a.lse.data = a.q.data; }},
      {"workspace on q",
       [](C& c, A& a) {
         a.workspace = {aligned(c.q.data()), c.q.size() - 64};
       }},
  };
}

class ArgumentsOf : public testing::TestWithParam<std::string> {
 protected:
  /// The problem in the first dtype that the kernel accepts.
  void SetUp() override {
    for (const char* dtype : {"bf16", "f32", "f16"}) {
      try {
        problem_ = Problem::parse(std::string(kText) + dtype);
        plan_ = select(problem_, Device::cpu(), GetParam()).plan();
        return;
      } catch (const Error& error) {
        ASSERT_EQ(error.code(), ErrorCode::unsupported) << error.what();
      }
    }
    GTEST_SKIP() << GetParam() << " computes no such problem";
  }

  const Plan& plan() const { return *plan_; }
  PagedCase make_case() const { return {problem_, 1}; }
  std::size_t row_bytes() const { return 64 * size_of(problem_.q); }

  static void expect_refused(const Plan& plan, PagedCase& buffers, const Arguments& arguments,
                             const std::string& what) {
    ThreadPool pool(2);
    try {
      plan.run(arguments, pool);
      ADD_FAILURE() << "accepted: " << what;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::invalid_argument) << what << ": " << error.what();
      EXPECT_FALSE(std::string(error.what()).empty()) << what;
    }
    EXPECT_TRUE(buffers.poisoned()) << "touched the outputs: " << what;
  }

 private:
  Problem problem_;
  std::optional<Plan> plan_;
};

TEST_P(ArgumentsOf, ValidOnesRun) {
  PagedCase buffers = make_case();
  ASSERT_TRUE(buffers.poisoned());
  ASSERT_NO_THROW(plan().run(buffers.arguments()));
  EXPECT_FALSE(buffers.poisoned());
}

TEST_P(ArgumentsOf, OneWrongIsRefusedBeforeAnyOutput) {
  for (const Spoil& spoil : spoils()) {
    PagedCase buffers = make_case();
    Arguments arguments = buffers.arguments();
    spoil.apply(buffers, arguments);
    expect_refused(plan(), buffers, arguments, spoil.what);
  }
}

TEST_P(ArgumentsOf, TooManyRequestsAreRefused) {
  Problem larger = plan().problem();
  larger.q_len = {1, 1, 1};
  larger.kv_len = {9, 9, 9};
  PagedCase buffers(larger, 1);
  expect_refused(plan(), buffers, buffers.arguments(), "three requests");
}

TEST_P(ArgumentsOf, MisalignedWorkspaceIsRefused) {
  const Plan& small = plan();
  PagedCase buffers = make_case();
  std::vector<std::byte> workspace(small.workspace_size() + 128);
  std::byte* begin = aligned(workspace.data());
  Arguments arguments = buffers.arguments();
  arguments.workspace = {begin + 1, small.workspace_size() + 1};
  expect_refused(small, buffers, arguments, "misaligned workspace");
  arguments.workspace = {begin, small.workspace_size() + 1};
  EXPECT_NO_THROW(small.run(arguments));
}

TEST_P(ArgumentsOf, PageIdsPastALengthMayHoldAnything) {
  PagedCase buffers = make_case();
  buffers.table[buffers.columns + 1] = -7;
  buffers.table[buffers.columns + 2] = 1 << 30;
  EXPECT_NO_THROW(plan().run(buffers.arguments()));
}

TEST_P(ArgumentsOf, OutMayBeASliceBesideQ) {
  PagedCase buffers = make_case();
  Arguments arguments = buffers.arguments();
  plan().run(arguments);
  const std::vector<std::byte> expected = buffers.out;
  const std::size_t row = row_bytes();
  std::vector<std::byte> both(2 * buffers.q.size());  // [5, 4, 128]: q, then out
  for (std::size_t i = 0; i < buffers.q.size() / row; ++i) {
    std::copy_n(buffers.q.begin() + i * row, row, both.begin() + 2 * i * row);
  }
  arguments.q = {both.data(), plan().problem().q, {5, 4, 64}, {512, 128, 1}};
  arguments.out = {both.data() + row, plan().problem().q, {5, 4, 64}, {512, 128, 1}};
  ASSERT_NO_THROW(plan().run(arguments));
  for (std::size_t i = 0; i < expected.size() / row; ++i) {
    EXPECT_TRUE(std::equal(expected.begin() + i * row, expected.begin() + (i + 1) * row,
                           both.begin() + (2 * i + 1) * row))
        << "row " << i;
  }
}

TEST_P(ArgumentsOf, OutMayHoldHeadsBeforeTokens) {
  PagedCase buffers = make_case();
  Arguments arguments = buffers.arguments();
  plan().run(arguments);
  const std::vector<std::byte> expected = buffers.out;
  arguments.out.stride = {64, 5 * 64, 1};
  ASSERT_NO_THROW(plan().run(arguments));
  const std::size_t row = row_bytes();
  for (std::size_t token = 0; token < 5; ++token) {
    for (std::size_t head = 0; head < 4; ++head) {
      const auto at = expected.begin() + (token * 4 + head) * row;
      EXPECT_TRUE(std::equal(at, at + row, buffers.out.begin() + (head * 5 + token) * row));
    }
  }
}

TEST_P(ArgumentsOf, StridesOfOneElementMayBeAnything) {
  Problem problem = plan().problem();
  problem.q_len = problem.kv_len = {1};
  problem.hq = problem.hkv = 1;
  problem.page_size = 1;
  const Plan single = select(problem, Device::cpu(), GetParam()).plan();
  PagedCase buffers(problem, 1);
  Arguments arguments = buffers.arguments();
  single.run(arguments);
  const std::vector<std::byte> expected = buffers.out;
  arguments.q.stride[0] = arguments.q.stride[1] = kHuge;
  arguments.out.stride[0] = arguments.out.stride[1] = kHuge;
  arguments.lse.stride[0] = arguments.lse.stride[1] = kHuge;
  for (KvView* view : {&arguments.k, &arguments.v}) view->stride[1] = view->stride[2] = kHuge;
  if (buffers.pages == 1) arguments.k.stride[0] = arguments.v.stride[0] = kHuge;
  arguments.page_table.stride = kHuge;
  ASSERT_NO_THROW(single.run(arguments));
  EXPECT_EQ(buffers.out, expected);
}

/// What only other problems than the one above have, or what only others let through.
struct Wrong {
  std::string problem;
  std::string what;
  std::function<void(Arguments&)> apply;
  std::string named{};  ///< in the message
};

std::vector<Wrong> wrongs() {
  static const std::int32_t lengths[] = {3, 1};
  static const float one = 1;
  static const std::uint8_t bits[64] = {};
  static float lse[64];
  using A = Arguments;
  const std::string packed = "packed q=f32 hq=2 d=8 q_len=3,2 kv_len=3,2";
  const std::string plain = "ragged q=f32 hq=2 d=8 q_len=3 kv_len=9";
  const std::string rich = plain + " mask=bits sinks alibi lse k_scale=head v_scale=tensor";
  const std::string empty = "paged q=f32 hq=2 d=8 lse q_len=0 kv_len=0";
  return {
      {packed, "unequal lengths", [](A& a) { a.kv_lens = lengths; }},
      {plain, "two pages", [](A& a) { a.k.shape[0] = a.v.shape[0] = 2; }},
      {plain, "too few tokens", [](A& a) { a.k.shape[1] = a.v.shape[1] = 8; }},
      {plain, "NaN", [](A& a) { a.q_scale.value = std::nanf(""); }},
      {plain, "infinite", [](A& a) { a.out_scale.value = HUGE_VALF; }},
      {plain, "values of a host scale",
       [](A& a) {
         a.v_scale.values = {&one, 1};
       }},
      {plain, "sinks",
       [](A& a) {
         a.sinks = {&one, 1};
       }},
      {plain, "slopes",
       [](A& a) {
         a.alibi_slopes = {&one, 1};
       }},
      {plain, "mask bits",
       [](A& a) {
         a.mask_bits = {bits, 3, 2};
       }},
      {plain, "lse",
       [](A& a) {
         a.lse = TensorView<2>::dense(lse, DType::f32, {3, 2});
       }},
      {rich, "too few rows of bits", [](A& a) { a.mask_bits.rows = 2; }},
      {rich, "too few bytes of bits", [](A& a) { a.mask_bits.row_bytes = 1; }},
      {rich, "null bits", [](A& a) { a.mask_bits.data = nullptr; }},
      {rich, "bits that overflow", [](A& a) { a.mask_bits.rows = kHuge; }},
      {rich, "too few sinks", [](A& a) { a.sinks = a.sinks.first(1); }},
      {rich, "no slopes", [](A& a) { a.alibi_slopes = {}; }},
      {rich, "too few scales", [](A& a) { a.k_scale.values = a.k_scale.values.first(1); }},
      {rich, "too many scales", [](A& a) { a.v_scale.values = a.k_scale.values; }},
      {rich, "null scales",
       [](A& a) {
         a.v_scale.values = {static_cast<const float*>(nullptr), 1};
       }},
      {empty, "negative rows of q", [](A& a) { a.q.shape[0] = -1; }, "q.shape[0]=-1: must"},
      {empty, "negative rows of out", [](A& a) { a.out.shape[0] = -1; }, "out.shape[0]=-1: must"},
      {empty, "negative pages", [](A& a) { a.k.shape[0] = a.v.shape[0] = -1; },
       "k.shape[0]=-1: must"},
  };
}

TEST(Arguments, WrongOnesOfOtherProblemsAreRefused) {
  for (const Wrong& wrong : wrongs()) {
    SCOPED_TRACE(wrong.problem + ": " + wrong.what);
    const Problem problem = Problem::parse(wrong.problem);
    const Plan plan = select(problem, Device::cpu()).plan();
    const verify::Case made(problem, 1);
    Arguments arguments = made.arguments();
    ASSERT_NO_THROW(plan.run(arguments));
    const auto* out = static_cast<const std::byte*>(arguments.out.data);
    const std::vector<std::byte> before(out,
                                        out + problem.total_q() * problem.hq * problem.dv *
                                                  static_cast<std::int64_t>(size_of(problem.out)));
    wrong.apply(arguments);
    try {
      plan.run(arguments);
      ADD_FAILURE() << "accepted";
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::invalid_argument) << error.what();
      EXPECT_NE(std::string(error.what()).find(wrong.named), std::string::npos) << error.what();
    }
    EXPECT_TRUE(std::equal(before.begin(), before.end(), out));
  }
}

INSTANTIATE_TEST_SUITE_P(Cpu, ArgumentsOf, testing::ValuesIn(kernel_names(Device::cpu())),
                         [](const auto& kernel) { return kernel.param; });

}  // namespace
}  // namespace octavo::tests
