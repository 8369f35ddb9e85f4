#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include "octavo/octavo.h"
#include "problems.h"
#include "verify/verify.h"

namespace octavo::tests {
namespace {

TEST(Problem, PrintedTextParsesBack) {
  for (const std::string& text : all_problems()) {
    const Problem problem = Problem::parse(text);
    EXPECT_NO_THROW(validate(problem)) << text;
    EXPECT_EQ(Problem::parse(problem.to_string()), problem) << text << "\n" << problem.to_string();
  }
}

TEST(Problem, SampledProblemsAreValidAndParseBack) {
  for (std::uint64_t seed = 0; seed < 20000; ++seed) {
    const Problem problem = verify::sample(seed);
    const std::string text = problem.to_string();
    ASSERT_NO_THROW(validate(problem)) << text;
    ASSERT_EQ(Problem::parse(text), problem) << text;
    ASSERT_EQ(Problem::parse(text).to_string(), text);
    ASSERT_EQ(std::hash<Problem>{}(Problem::parse(text)), std::hash<Problem>{}(problem));
  }
}

TEST(Problem, Defaults) {
  const Problem plain = Problem::parse("paged q=f16 kv=f16 hq=4 hkv=2 d=80 q_len=3 kv_len=5");
  EXPECT_EQ(plain.layout, Layout::paged);
  EXPECT_EQ(plain.order, PageOrder::nhd);
  EXPECT_EQ(plain.pool, Pool::joint);
  EXPECT_EQ(plain.page_size, 16);
  EXPECT_EQ(plain.out, DType::f16);
  EXPECT_EQ(plain.dv, 80);
  EXPECT_EQ(plain.mask.kind, MaskKind::none);
  EXPECT_FALSE(plain.cap || plain.scale || plain.sinks || plain.alibi || plain.lse ||
               plain.invariant);
  EXPECT_EQ(plain.split, 0);
  EXPECT_EQ(plain.batch(), 1);
  EXPECT_DOUBLE_EQ(plain.softmax_scale(), 1 / std::sqrt(80.0));

  const Problem fp8 = Problem::parse("paged q=e4m3 kv=e4m3 hq=1 hkv=1 d=64 q_len=1 kv_len=1");
  EXPECT_EQ(fp8.out, DType::bf16);
}

TEST(Problem, OneLengthServesAllRequests) {
  const Problem problem = Problem::parse("paged q=bf16 hq=1 hkv=1 d=64 b=3 q_len=2 kv_len=9,8,7");
  EXPECT_EQ(problem.q_len, (std::vector<std::int64_t>{2, 2, 2}));
  EXPECT_EQ(problem.kv_len, (std::vector<std::int64_t>{9, 8, 7}));
  EXPECT_EQ(problem.total_q(), 6);
  EXPECT_EQ(problem.max_q_len(), 2);
  EXPECT_EQ(problem.max_kv_len(), 9);
}

struct Invalid {
  std::string text;
  std::vector<std::string> named;  ///< what the message must contain
};

void expect_invalid(const Invalid& invalid) {
  try {
    validate(Problem::parse(invalid.text));
    ADD_FAILURE() << "accepted: " << invalid.text;
  } catch (const Error& error) {
    const std::string message = error.what();
    EXPECT_EQ(error.code(), ErrorCode::invalid_problem) << invalid.text;
    EXPECT_FALSE(message.empty()) << invalid.text;
    for (const std::string& word : invalid.named) {
      EXPECT_NE(message.find(word), std::string::npos)
          << invalid.text << "\nmessage: " << message << "\nlacks: " << word;
    }
  }
}

TEST(Problem, TextErrorsNameKeyAndValue) {
  const std::vector<Invalid> table = {
      {"", {}},
      {"pages q=bf16", {"pages"}},
      {"paged foo=17", {"foo"}},
      {"paged q=bf17", {"q", "bf17"}},
      {"paged kv=int8", {"kv", "int8"}},
      {"paged out=double", {"out", "double"}},
      {"paged hq=abc", {"hq", "abc"}},
      {"paged hq=", {"hq"}},
      {"paged hq=1.5", {"hq", "1.5"}},
      {"paged hq=99999999999999999999", {"hq", "99999999999999999999"}},
      {"paged hq=1 hq=2", {"hq"}},
      {"paged order=nhdd", {"order", "nhdd"}},
      {"paged pool=both", {"pool", "both"}},
      {"paged page=x7", {"page", "x7"}},
      {"paged mask=diagonal", {"mask", "diagonal"}},
      {"paged mask=window:3", {"mask", "window:3"}},
      {"paged mask=window:a,b", {"mask", "window:a,b"}},
      {"paged mask=chunked:", {"mask", "chunked:"}},
      {"paged mask=chunked:x", {"mask", "chunked:x"}},
      {"paged cap=hat", {"cap", "hat"}},
      {"paged scale=abc", {"scale", "abc"}},
      {"paged q_scale=row", {"q_scale", "row"}},
      {"paged k_scale=row", {"k_scale", "row"}},
      {"paged v_scale=row", {"v_scale", "row"}},
      {"paged out_scale=row", {"out_scale", "row"}},
      {"paged sinks sinks", {"sinks"}},
      {"paged lse=1", {"lse"}},
      {"paged causal", {"causal"}},
      {"paged q_len=1,x kv_len=1", {"q_len", "x"}},
      {"paged q_len=1 kv_len=1,,2", {"kv_len"}},
      {"paged q=bf16 hq=1 d=64 b=3 q_len=1,2 kv_len=5", {"q_len"}},
      {"paged split=half", {"split", "half"}},
      {"paged b=two", {"b", "two"}},
  };
  for (const Invalid& invalid : table) expect_invalid(invalid);
}

TEST(Problem, SenselessProblemsNameFieldAndValue) {
  const std::vector<Invalid> table = {
      {"paged q=bf16 hq=0 hkv=1 d=64 q_len=1 kv_len=1", {"hq", "0"}},
      {"paged q=bf16 hq=2 hkv=0 d=64 q_len=1 kv_len=1", {"hkv", "0"}},
      {"paged q=bf16 hq=7 hkv=2 d=64 q_len=1 kv_len=1", {"hq", "7", "2"}},
      {"paged q=bf16 hq=1 hkv=1 d=0 q_len=1 kv_len=1", {"d", "0"}},
      {"paged q=bf16 hq=1 hkv=1 d=-8 q_len=1 kv_len=1", {"d", "-8"}},
      {"paged q=bf16 hq=1 hkv=1 d=64 page=0 q_len=1 kv_len=1", {"page", "0"}},
      {"paged q=bf16 hq=1 hkv=1 d=64 q_len=-3 kv_len=1", {"q_len", "-3"}},
      {"paged q=bf16 hq=1 hkv=1 d=64 q_len=1 kv_len=-3", {"kv_len", "-3"}},
      {"paged q=bf16 hq=1 hkv=1 d=64 mask=chunked:0 q_len=1 kv_len=1", {"mask", "0"}},
      {"paged q=bf16 hq=1 hkv=1 d=64 mask=window:-2,0 q_len=1 kv_len=1", {"mask", "-2"}},
      {"paged q=bf16 hq=1 hkv=1 d=64 cap=-5 q_len=1 kv_len=1", {"cap", "-5"}},
      {"paged q=bf16 hq=1 hkv=1 d=64 split=-1 q_len=1 kv_len=1", {"split", "-1"}},
      {"packed q=bf16 hq=1 hkv=1 d=64 q_len=3 kv_len=5", {"3", "5"}},
      {"paged q=bf16 hq=1 hkv=1 d=64 dv=32 pool=joint q_len=1 kv_len=1", {"dv", "32", "64"}},
  };
  for (const Invalid& invalid : table) expect_invalid(invalid);
}

}  // namespace
}  // namespace octavo::tests
