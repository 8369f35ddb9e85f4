#include <gtest/gtest.h>

#include <functional>
#include <string>
#include <vector>

#include "octavo/octavo.h"
#include "paged_case.h"

namespace octavo::tests {
namespace {

const char kText[] =
    "paged pool=split q=bf16 kv=bf16 hq=4 hkv=2 d=64 page=16 mask=causal lse q_len=3,2 kv_len=33,9";

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
      {"q dtype", [](C&, A& a) { a.q.dtype = DType::f16; }},
      {"k dtype", [](C&, A& a) { a.k.dtype = DType::f16; }},
      {"v dtype", [](C&, A& a) { a.v.dtype = DType::f32; }},
      {"out dtype", [](C&, A& a) { a.out.dtype = DType::f32; }},
      {"lse dtype", [](C&, A& a) { a.lse.dtype = DType::bf16; }},
      {"q heads", [](C&, A& a) { a.q.shape[1] = 3; }},
      {"q head dim", [](C&, A& a) { a.q.shape[2] = 32; }},
      {"k heads", [](C&, A& a) { a.k.shape[2] = 1; }},
      {"v heads", [](C&, A& a) { a.v.shape[2] = 1; }},
      {"v head dim", [](C&, A& a) { a.v.shape[3] = 32; }},
      {"out heads", [](C&, A& a) { a.out.shape[1] = 2; }},
      {"k page size", [](C&, A& a) { a.k.shape[1] = 8; }},
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
  };
}

class ArgumentsOf : public testing::TestWithParam<std::string> {
 protected:
  Plan plan() const { return select(Problem::parse(kText), Device::cpu(), GetParam()).plan(); }

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
};

TEST_P(ArgumentsOf, ValidOnesRun) {
  PagedCase buffers(Problem::parse(kText), 1);
  ASSERT_TRUE(buffers.poisoned());
  ASSERT_NO_THROW(plan().run(buffers.arguments()));
  EXPECT_FALSE(buffers.poisoned());
}

TEST_P(ArgumentsOf, OneWrongIsRefusedBeforeAnyOutput) {
  for (const Spoil& spoil : spoils()) {
    PagedCase buffers(Problem::parse(kText), 1);
    Arguments arguments = buffers.arguments();
    spoil.apply(buffers, arguments);
    expect_refused(plan(), buffers, arguments, spoil.what);
  }
}

TEST_P(ArgumentsOf, TooManyRequestsAreRefused) {
  PagedCase buffers(
      Problem::parse("paged pool=split q=bf16 kv=bf16 hq=4 hkv=2 d=64 page=16 mask=causal lse b=3 "
                     "q_len=1 kv_len=9"),
      1);
  expect_refused(plan(), buffers, buffers.arguments(), "three requests");
}

TEST_P(ArgumentsOf, MisalignedWorkspaceIsRefused) {
  const Plan small = plan();
  PagedCase buffers(Problem::parse(kText), 1);
  std::vector<std::byte> workspace(small.workspace_size() + 128);
  const auto address = reinterpret_cast<std::uintptr_t>(workspace.data());
  std::byte* aligned = workspace.data() + (64 - address % 64) % 64;
  Arguments arguments = buffers.arguments();
  arguments.workspace = {aligned + 1, small.workspace_size() + 1};
  expect_refused(small, buffers, arguments, "misaligned workspace");
  arguments.workspace = {aligned, small.workspace_size() + 1};
  EXPECT_NO_THROW(small.run(arguments));
}

TEST_P(ArgumentsOf, PageIdsPastALengthMayHoldAnything) {
  PagedCase buffers(Problem::parse(kText), 1);
  buffers.table[buffers.columns + 1] = -7;
  buffers.table[buffers.columns + 2] = 1 << 30;
  EXPECT_NO_THROW(plan().run(buffers.arguments()));
}

INSTANTIATE_TEST_SUITE_P(Cpu, ArgumentsOf, testing::ValuesIn(kernel_names(Device::cpu())));

}  // namespace
}  // namespace octavo::tests
