#include <gtest/gtest.h>

#include <optional>
#include <string>

#include "octavo/octavo.h"
#include "problems.h"
#include "verify/verify.h"

namespace octavo::tests {
namespace {

/// The plan of a forced kernel, or nothing where the kernel refuses the problem.
std::optional<Plan> forced_plan(const Problem& problem, const std::string& kernel) {
  try {
    return select(problem, Device::cpu(), kernel).plan();
  } catch (const Error& error) {
    if (error.code() != ErrorCode::unsupported) throw;
    return std::nullopt;
  }
}

class Kernel : public testing::TestWithParam<std::string> {};

TEST_P(Kernel, EveryKernelMatchesTheOracle) {
  const Problem problem = Problem::parse(GetParam());
  ThreadPool pool(2);
  for (const std::string& kernel : kernel_names(Device::cpu())) {
    const std::optional<Plan> plan = forced_plan(problem, kernel);
    if (!plan) {
      EXPECT_NE(kernel, "cpu_reference") << "refused " << GetParam();
      continue;
    }
    for (std::uint64_t seed = 1; seed <= 3; ++seed) {
      const verify::Result result = verify::verify(*plan, seed, pool);
      EXPECT_TRUE(result.passed) << kernel << ": " << GetParam() << " seed " << seed << "\n"
                                 << result.failure;
      if (result.passed) {
        EXPECT_LE(result.worst, 1) << kernel << ": " << GetParam();
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Smoke, Kernel, testing::ValuesIn(smoke()));
INSTANTIATE_TEST_SUITE_P(Regressions, Kernel, testing::ValuesIn(regressions()));

TEST(Kernels, PortableSupportsMostProblems) {
  std::size_t supported = 0;
  for (const std::string& text : all_problems()) {
    supported += forced_plan(Problem::parse(text), "cpu_portable").has_value();
  }
  EXPECT_GE(supported * 10, all_problems().size() * 7);
}

}  // namespace
}  // namespace octavo::tests
