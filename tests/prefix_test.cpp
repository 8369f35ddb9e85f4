// Problems whose requests share a prefix.
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "core/kernel.h"
#include "octavo/octavo.h"
#include "paged_case.h"

namespace octavo::tests {
namespace {

std::string error_of(const std::string& text) {
  try {
    validate(Problem::parse(text));
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::invalid_problem);
    return error.what();
  }
  return "none";
}

TEST(Prefix, HasToBeWholePagesBeforeTheQueries) {
  const std::string paged = "paged q=f32 hq=1 d=8 page=16 b=2 q_len=3,0 kv_len=50,7 prefix=";
  EXPECT_EQ(error_of(paged + "48"), "none");  // the last key that the first query sees
  EXPECT_EQ(error_of(paged + "64"),
            "prefix=64: must be at most 48, where q_len[0]=3 queries of "
            "kv_len[0]=50 begin, plus one");
  EXPECT_EQ(error_of(paged + "40"), "prefix=40: must be a multiple of page=16");
  EXPECT_EQ(error_of(paged + "-16"), "prefix=-16: must be from 0 to 2147483647");
  EXPECT_EQ(error_of("ragged q=f32 hq=1 d=8 q_len=1 kv_len=50 prefix=16"),
            "prefix=16: expected no such key without the layout paged");
}

/// Why cpu_cascade refuses; empty if it does not.
std::string refusal(const std::string& rest) {
  const std::string text = "paged q=f32 hq=2 hkv=1 d=8 q_len=1 kv_len=40,100 " + rest;
  const Selection selection = select(Problem::parse(text), Device::cpu());
  for (const Candidate& candidate : selection.candidates()) {
    if (candidate.kernel->name != "cpu_cascade") continue;
    return candidate.reasons.empty() ? "" : candidate.reasons[0];
  }
  return "there is no such kernel";
}

TEST(Prefix, IsComputedApartWhereAllRowsSeeIt) {
  for (const char* rest : {"", "mask=causal", "mask=window:99,0", "mask=window:-1,7",
                           "mask=chunked:100", "cap=5 sinks lse", "split=7 out_scale=head"}) {
    EXPECT_EQ(refusal(std::string("prefix=32 ") + rest), "") << rest;
  }
  EXPECT_EQ(refusal(""), "needs a prefix that requests share, has prefix=0");
  EXPECT_EQ(refusal("prefix=32 invariant"),
            "cannot keep an invariant row's bits: they depend on the prefix");
  EXPECT_EQ(refusal("prefix=32 alibi"),
            "cannot do alibi: rows of one request have their positions from its end");
  EXPECT_EQ(refusal("prefix=32 mask=bits"), "cannot do mask=bits: it may hide keys of the prefix");
  EXPECT_EQ(refusal("prefix=32 mask=window:98,0"),
            "the window of 98 keys to the left hides keys of the prefix from rows at 99");
  EXPECT_EQ(refusal("prefix=32 mask=chunked:99"),
            "chunks of 99 keys hide the prefix from rows at 99");
}

TEST(Prefix, IsComputedApartWhereThatPays) {
  const auto selected = [](const std::string& rest) {
    return std::string(
        select(Problem::parse("paged q=f32 hq=8 hkv=2 d=64 " + rest), Device::cpu()).kernel());
  };
  EXPECT_EQ(selected("b=16 q_len=1 kv_len=4160 prefix=4096"), "cpu_cascade");
  EXPECT_NE(selected("b=1 q_len=1 kv_len=4160 prefix=4096"), "cpu_cascade");
  EXPECT_NE(selected("b=16 q_len=1 kv_len=4160 prefix=16"), "cpu_cascade");
}

class PrefixRun : public testing::Test {
 protected:
  PrefixRun()
      : batch(Problem::parse("paged pool=split q=f32 hq=2 hkv=1 d=8 page=4 mask=causal prefix=8 "
                             "q_len=1,2 kv_len=11,13"),
              1) {
    for (std::int64_t c = 0; c < 2; ++c) batch.table[batch.columns + c] = batch.table[c];
  }
  std::string error_of_run() {
    try {
      select(batch.problem, Device::cpu()).plan().run(batch.arguments());
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::invalid_argument);
      EXPECT_TRUE(batch.poisoned());
      return error.what();
    }
    return "none";
  }
  PagedCase batch;
};

TEST_F(PrefixRun, TakesRequestsThatShareIt) {
  EXPECT_EQ(error_of_run(), "none");
  EXPECT_FALSE(batch.poisoned());
}

TEST_F(PrefixRun, RefusesOtherPages) {
  const std::int32_t shared = batch.table[1];
  batch.table[batch.columns + 1] = batch.table[0];
  EXPECT_EQ(error_of_run(), "page_table[1][1]=" + std::to_string(batch.table[0]) +
                                ": must be the page that all share, " + std::to_string(shared) +
                                ", in the plan's prefix of 8 tokens");
}

TEST_F(PrefixRun, RefusesQueriesInIt) {
  batch.kv_lens[1] = 8;
  EXPECT_EQ(error_of_run(),
            "kv_lens[1]=8 with q_lens[1]=2: queries begin at 6, in the plan's prefix of 8 tokens");
}

TEST_F(PrefixRun, IgnoresRequestsWithoutQueries) {
  batch.q_lens[1] = 0;
  batch.kv_lens[1] = 3;
  batch.table[batch.columns] = batch.table[0] == 0 ? 1 : 0;
  EXPECT_EQ(error_of_run(), "none");
  batch.q_lens[0] = 0;
  EXPECT_EQ(error_of_run(), "none");
}

TEST(CommonPrefix, IsThePagesThatAreTheSameBeforeTheQueries) {
  const std::int32_t table[] = {5, 6, 7, 8, /**/ 5, 6, 7, 9, /**/ 1, 2, 3, 4};
  const auto prefix = [&](std::vector<std::int32_t> q_lens, std::vector<std::int32_t> kv_lens) {
    return common_prefix({table, 3, 4, 4}, q_lens, kv_lens, 16);
  };
  EXPECT_EQ(prefix({1, 1}, {64, 64}), 48);
  EXPECT_EQ(prefix({1, 1}, {64, 48}), 48);
  EXPECT_EQ(prefix({1, 2}, {64, 48}), 32);
  EXPECT_EQ(prefix({1, 1, 0}, {64, 64, 64}), 48);
  EXPECT_EQ(prefix({1, 1, 1}, {64, 64, 64}), 0);
  EXPECT_EQ(prefix({1}, {60}), 48);
  EXPECT_EQ(prefix({9}, {3}), 0);
  EXPECT_EQ(prefix({0, 0}, {64, 64}), 0);
  EXPECT_EQ(prefix({}, {}), 0);
  EXPECT_THROW(prefix({1, 1, 1, 1}, {1, 1, 1, 1}), Error);
  EXPECT_THROW(prefix({1}, {}), Error);
}

}  // namespace
}  // namespace octavo::tests
