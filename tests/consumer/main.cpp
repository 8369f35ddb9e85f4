// One query over three keys of one head, against a plain loop.
#include <cmath>
#include <cstdio>
#include <vector>

#include "octavo/octavo.h"

int main() {
  using namespace octavo;
  constexpr int kWidth = 8;
  constexpr int kTokens = 3;
  std::vector<float> q(kWidth), k(kTokens * kWidth), v(kTokens * kWidth), out(kWidth);
  for (int i = 0; i < kWidth; ++i) q[i] = 0.25f * static_cast<float>(i);
  for (int i = 0; i < kTokens * kWidth; ++i) {
    k[i] = 0.125f * static_cast<float>(i % 5);
    v[i] = static_cast<float>(i % 7);
  }

  const Problem problem = Problem::parse("ragged q=f32 hq=1 d=8 q_len=1 kv_len=3");
  const Plan plan = select(problem, Device::cpu()).plan();
  const std::int32_t q_len = 1;
  const std::int32_t kv_len = kTokens;
  Arguments arguments;
  arguments.q = TensorView<3>::dense(q.data(), DType::f32, {1, 1, kWidth});
  arguments.k = KvView::dense(k.data(), DType::f32, {1, kTokens, 1, kWidth});
  arguments.v = KvView::dense(v.data(), DType::f32, {1, kTokens, 1, kWidth});
  arguments.q_lens = {&q_len, 1};
  arguments.kv_lens = {&kv_len, 1};
  arguments.out = TensorView<3>::dense(out.data(), DType::f32, {1, 1, kWidth});
  plan.run(arguments);

  double sum = 0;
  double expected[kWidth] = {};
  for (int j = 0; j < kTokens; ++j) {
    double dot = 0;
    for (int i = 0; i < kWidth; ++i) dot += static_cast<double>(q[i]) * k[j * kWidth + i];
    const double weight = std::exp(dot / std::sqrt(kWidth));
    sum += weight;
    for (int i = 0; i < kWidth; ++i) expected[i] += weight * v[j * kWidth + i];
  }
  for (int i = 0; i < kWidth; ++i) {
    if (!(std::fabs(out[i] - expected[i] / sum) <= 1e-5)) {
      std::printf("out[%d] is %g, not %g\n", i, out[i], expected[i] / sum);
      return 1;
    }
  }

  try {
    arguments.out.data = nullptr;
    plan.run(arguments);
  } catch (const Error& error) {
    return error.code() == ErrorCode::invalid_argument ? 0 : 1;
  }
  std::printf("a null output was not refused\n");
  return 1;
}
