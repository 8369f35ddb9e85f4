#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "octavo/octavo.h"
#include "paged_case.h"

namespace octavo::tests {
namespace {

class Determinism : public testing::TestWithParam<std::string> {
 protected:
  Plan plan(const Problem& problem) const {
    return select(problem, Device::cpu(), GetParam()).plan();
  }
};

TEST_P(Determinism, SameBitsOnAnyNumberOfThreads) {
  const Problem problem = Problem::parse(
      "paged pool=split q=bf16 kv=bf16 hq=6 hkv=2 d=64 page=16 mask=causal lse split=64 "
      "q_len=1,40,7 kv_len=500,40,129");
  const Plan bound = plan(problem);
  PagedCase buffers(problem, 3);
  std::vector<std::byte> out, lse;
  for (int threads : {1, 2, 3, 8, 8, 1}) {
    ThreadPool pool(threads);
    buffers.poison();
    bound.run(buffers.arguments(), pool);
    if (out.empty()) {
      out = buffers.out;
      lse = buffers.lse;
    }
    EXPECT_EQ(buffers.out, out) << threads << " threads";
    EXPECT_EQ(buffers.lse, lse) << threads << " threads";
  }
}

TEST_P(Determinism, SameBitsAloneAndInABatch) {
  for (const char* flags : {"", " split=64", " mask=causal", " mask=window:50,0 split=64"}) {
    const Problem problem = Problem::parse(
        std::string("paged pool=split q=bf16 kv=bf16 hq=6 hkv=2 d=64 page=16 lse q_len=1,40,7 "
                    "kv_len=500,40,129") +
        flags);
    const Plan bound = plan(problem);
    PagedCase buffers(problem, 4);
    ThreadPool pool(3);
    bound.run(buffers.arguments(), pool);
    const std::vector<std::byte> out = buffers.out, lse = buffers.lse;
    buffers.poison();
    for (std::int64_t r = 0; r < problem.batch(); ++r) {
      bound.run(buffers.slice(r, 0, problem.q_len[r], problem.kv_len[r]), pool);
    }
    EXPECT_EQ(buffers.out, out) << problem.to_string();
    EXPECT_EQ(buffers.lse, lse) << problem.to_string();
  }
}

constexpr std::int64_t kTokens = 300;

Problem prompt(DType dtype, std::int64_t q_len, std::int64_t kv_len) {
  Problem p = Problem::parse(
      "paged pool=split q=f32 kv=f32 hq=6 hkv=2 d=64 page=16 mask=causal lse invariant split=64 "
      "q_len=1 kv_len=1");
  p.q = p.kv = p.out = dtype;
  p.q_len = {q_len};
  p.kv_len = {kv_len};
  return p;
}

/// Chunks that add up to kTokens.
std::vector<std::int64_t> random_chunks(std::mt19937_64& random) {
  std::vector<std::int64_t> chunks;
  for (std::int64_t left = kTokens; left > 0; left -= chunks.back()) {
    chunks.push_back(std::min<std::int64_t>(left, 1 + random() % 90));
  }
  return chunks;
}

TEST_P(Determinism, InvariantRowsAgreeHoweverThePromptIsCut) {
  std::mt19937_64 random(5);
  std::vector<std::vector<std::int64_t>> cuts = {std::vector<std::int64_t>(kTokens, 1)};
  for (int i = 0; i < 8; ++i) cuts.push_back(random_chunks(random));
  ThreadPool pool(2);
  for (DType dtype : {DType::f32, DType::bf16}) {
    const Problem whole = prompt(dtype, kTokens, kTokens);
    const Plan bound = plan(whole);
    PagedCase buffers(whole, 6);
    bound.run(buffers.arguments(), pool);
    const std::vector<std::byte> out = buffers.out, lse = buffers.lse;
    for (const auto& cut : cuts) {
      for (bool own_plan : {false, true}) {
        buffers.poison();
        std::int64_t done = 0;
        for (std::int64_t chunk : cut) {
          const Plan chunk_plan = own_plan ? plan(prompt(dtype, chunk, done + chunk)) : bound;
          chunk_plan.run(buffers.slice(0, done, chunk, done + chunk), pool);
          done += chunk;
        }
        ASSERT_EQ(done, kTokens);
        EXPECT_TRUE(buffers.out == out)
            << cut.size() << " chunks, own plans: " << own_plan << ", " << whole.to_string();
        EXPECT_TRUE(buffers.lse == lse) << cut.size() << " chunks, own plans: " << own_plan;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Cpu, Determinism, testing::ValuesIn(kernel_names(Device::cpu())));

}  // namespace
}  // namespace octavo::tests
