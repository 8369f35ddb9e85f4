// The kernel of docs/adding-a-kernel.md, in a table of its own.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <limits>
#include <sstream>
#include <string>
#include <vector>

#include "cpu/kernels.h"
#include "octavo/octavo.h"
#include "problems.h"
#include "verify/verify.h"

namespace octavo {
namespace {

Support supports(const Problem& p, const Device&) {
  Support s;
  s.require(p.q == DType::f32, "q must be f32, is ", name(p.q));
  s.require(p.kv == DType::f32, "kv must be f32, is ", name(p.kv));
  s.require(p.out == DType::f32, "out must be f32, is ", name(p.out));
  s.require(p.mask.kind == MaskKind::none || p.mask.kind == MaskKind::causal,
            "mask must be none or causal");
  s.require(!p.cap, "there must be no cap, it is ", p.cap.value_or(0));
  s.require(!p.sinks && !p.alibi, "there must be no sinks and no alibi");
  const bool host = p.q_scale == ScaleKind::host && p.k_scale == ScaleKind::host &&
                    p.v_scale == ScaleKind::host && p.out_scale == ScaleKind::host;
  s.require(host, "scales must be host numbers");
  return s;
}

constexpr double kMultiplyAddsPerUs = 1000;  // one thread, measured

double cost_us(const Problem& problem, const Device& device) {
  return multiply_adds(problem) / (kMultiplyAddsPerUs * device.threads);
}

/// One query token of one head, in two passes over the keys it sees: scores, then weighted values.
void attend(const Call& call, const Request& request, std::int64_t token, std::int64_t head) {
  const Problem& p = call.problem;
  const Arguments& a = call.arguments;
  const std::int64_t kv_head = head / p.group();
  const std::int64_t row = request.q_begin + token;
  const float scale = static_cast<float>(p.softmax_scale()) * a.q_scale.value * a.k_scale.value;
  const float* q = static_cast<const float*>(a.q.data) + row * a.q.stride[0] + head * a.q.stride[1];
  const KeyRange keys = visible_keys(p.mask, request.position(token), request.kv_len);

  std::vector<float> scores;
  float largest = -std::numeric_limits<float>::infinity();
  for (std::int64_t j = keys.begin; j < keys.end; ++j) {
    const auto* k = reinterpret_cast<const float*>(call.kv_row(a.k, request, j, kv_head));
    float score = 0;
    for (std::int64_t i = 0; i < p.d; ++i) score += q[i] * k[i];
    scores.push_back(scale * score);
    largest = std::max(largest, scores.back());
  }

  float sum = 0;
  std::vector<float> values(static_cast<std::size_t>(p.dv), 0.0f);
  for (std::int64_t j = keys.begin; j < keys.end; ++j) {
    const auto* v = reinterpret_cast<const float*>(call.kv_row(a.v, request, j, kv_head));
    const float weight = std::exp(scores[j - keys.begin] - largest);
    sum += weight;
    for (std::int64_t c = 0; c < p.dv; ++c) values[c] += weight * v[c];
  }

  const float factor = scores.empty() ? 0 : a.v_scale.value * a.out_scale.value / sum;
  float* out = static_cast<float*>(a.out.data) + row * a.out.stride[0] + head * a.out.stride[1];
  for (std::int64_t c = 0; c < p.dv; ++c) out[c] = values[c] * factor;
  if (p.lse) {
    static_cast<float*>(a.lse.data)[row * a.lse.stride[0] + head * a.lse.stride[1]] =
        largest + std::log(sum);
  }
}

void launch(const Call& call, Executor& executor) {
  const std::int64_t heads = call.problem.hq;
  for (const Request& request : call.requests) {
    executor.parallel_for(request.q_len * heads,
                          [&](std::int64_t i) { attend(call, request, i / heads, i % heads); });
  }
}

}  // namespace

KernelInfo cpu_toy() {
  return {"cpu_toy", supports, cost_us, [](const Problem&) { return std::size_t{0}; }, launch};
}

namespace tests {
namespace {

const std::vector<KernelInfo>& table() {
  static const std::vector<KernelInfo> kernels = {cpu_toy(), cpu_reference()};
  return kernels;
}

Selection choose(const Problem& problem, std::string_view forced = {}) {
  return select_from(table(), problem, Device::cpu(), forced);
}

TEST(ToyKernel, IsSelectedWhereItCanAndCheaper) {
  const std::string family = "ragged hq=2 d=64 mask=causal q_len=9 kv_len=33 ";
  EXPECT_EQ(choose(Problem::parse(family + "q=f32")).kernel(), "cpu_toy");
  EXPECT_EQ(choose(Problem::parse(family + "q=bf16")).kernel(), "cpu_reference");
  EXPECT_EQ(choose(Problem::parse(family + "q=f32"), "cpu_reference").kernel(), "cpu_reference");
}

TEST(ToyKernel, RefusesForTheReasonsItGives) {
  struct Refusal {
    std::string change;
    std::vector<std::string> reasons;
  };
  const std::vector<Refusal> refusals = {
      {"q=f32", {}},
      {"q=f32 scale=0.3 lse split=16 invariant", {}},
      {"q=bf16 kv=f32 out=f32", {"q must be f32, is bf16"}},
      {"q=f32 kv=f16", {"kv must be f32, is f16"}},
      {"q=f32 out=e4m3", {"out must be f32, is e4m3"}},
      {"q=f32 mask=window:3,0", {"mask must be none or causal"}},
      {"q=f32 mask=bits cap=5", {"mask must be none or causal", "there must be no cap, it is 5"}},
      {"q=f32 sinks", {"there must be no sinks and no alibi"}},
      {"q=f32 alibi", {"there must be no sinks and no alibi"}},
      {"q=f32 k_scale=head", {"scales must be host numbers"}},
  };
  for (const Refusal& refusal : refusals) {
    const Problem problem = Problem::parse("paged hq=2 d=64 q_len=9 kv_len=33 " + refusal.change);
    EXPECT_EQ(choose(problem).candidates()[0].reasons, refusal.reasons) << refusal.change;
    if (refusal.reasons.empty()) continue;
    try {
      choose(problem, "cpu_toy");
      ADD_FAILURE() << "forced: " << refusal.change;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::unsupported);
      EXPECT_NE(std::string(error.what()).find(refusal.reasons[0]), std::string::npos)
          << error.what();
    }
  }
}

/// Verifies the toy; false if it refuses.
bool verify_toy(const Problem& problem) {
  static ThreadPool pool(2);
  if (!choose(problem).candidates()[0].reasons.empty()) return false;
  const verify::Result result = verify::verify(choose(problem, "cpu_toy").plan(), 1, pool);
  EXPECT_TRUE(result.passed) << problem.to_string() << " seed 1\n" << result.failure;
  return true;
}

TEST(ToyKernel, IsRightOnWhatItAccepts) {
  int listed = 0;
  for (const std::string& text : all_problems()) listed += verify_toy(Problem::parse(text)) ? 1 : 0;
  EXPECT_GT(listed, 40);
  for (std::uint64_t seed = 0; seed < 200; ++seed) {
    Problem p = verify::sample(seed);
    p.q = p.kv = p.out = DType::f32;
    if (p.mask.kind != MaskKind::none) p.mask = {.kind = MaskKind::causal};
    p.q_scale = p.k_scale = p.v_scale = p.out_scale = ScaleKind::host;
    p.cap.reset();
    p.sinks = p.alibi = false;
    EXPECT_TRUE(verify_toy(p)) << p.to_string();
  }
}

std::string contents(const std::string& path) {
  std::ifstream file(std::string(OCTAVO_SOURCE_DIR) + path);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

TEST(ToyKernel, TheDocumentShowsThisKernel) {
  const std::string code = contents("/tests/toy_kernel_test.cpp");
  const std::string document = contents("/docs/adding-a-kernel.md");
  constexpr std::string_view kBegin = "```cpp\n";
  int blocks = 0;
  for (std::size_t at = document.find(kBegin); at != std::string::npos;
       at = document.find(kBegin, at + 1)) {
    const std::size_t begin = at + kBegin.size();
    const std::string block = document.substr(begin, document.find("```", begin) - begin);
    EXPECT_NE(code.find(block), std::string::npos) << block;
    ++blocks;
  }
  EXPECT_GE(blocks, 3);
}

}  // namespace
}  // namespace tests
}  // namespace octavo
