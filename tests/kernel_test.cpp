#include "core/kernel.h"

#include <gtest/gtest.h>

#include <cstdio>
#include <map>
#include <optional>
#include <string>
#include <vector>

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

/// Why a kernel says it cannot; empty if it can.
std::vector<std::string> reasons_of(const Problem& problem, const std::string& kernel) {
  const Selection selection = select(problem, Device::cpu());
  for (const Candidate& candidate : selection.candidates()) {
    if (candidate.kernel->name == kernel) return candidate.reasons;
  }
  ADD_FAILURE() << kernel << " is not in the table";
  return {};
}

/// Forced, the kernel is refused, and the message holds its reasons.
void expect_refusal(const Problem& problem, const std::string& kernel,
                    const std::vector<std::string>& reasons) {
  try {
    select(problem, Device::cpu(), kernel);
    ADD_FAILURE() << kernel << " ran although it said no: " << problem.to_string();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::unsupported);
    for (const std::string& reason : reasons) {
      EXPECT_NE(std::string(error.what()).find(reason), std::string::npos)
          << error.what() << "\nlacks: " << reason;
    }
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

class KernelOnAll : public testing::TestWithParam<std::string> {};

TEST_P(KernelOnAll, MatchesTheOracleOrGivesItsOwnReasons) {
  const std::string& kernel = GetParam();
  ThreadPool pool(1);
  std::map<std::string, int> refusals;
  int right = 0;
  for (const std::string& text : full()) {
    const Problem problem = Problem::parse(text);
    const std::vector<std::string> reasons = reasons_of(problem, kernel);
    for (const std::string& reason : reasons) ++refusals[reason];
    if (!reasons.empty()) {
      expect_refusal(problem, kernel, reasons);
      continue;
    }
    const verify::Result result =
        verify::verify(select(problem, Device::cpu(), kernel).plan(), 1, pool);
    ASSERT_TRUE(result.passed) << kernel << ": " << text << " seed 1\n" << result.failure;
    ++right;
  }
  std::printf("%s: %d right, %d refused\n", kernel.c_str(), right,
              static_cast<int>(full().size()) - right);
  for (const auto& [reason, count] : refusals) std::printf("%6d %s\n", count, reason.c_str());
  EXPECT_TRUE(kernel != "cpu_reference" || refusals.empty());
}

INSTANTIATE_TEST_SUITE_P(Full, KernelOnAll, testing::ValuesIn(kernel_names(Device::cpu())),
                         [](const auto& kernel) { return kernel.param; });

TEST(Kernels, PortableSupportsMostProblems) {
  std::size_t supported = 0;
  for (const std::string& text : all_problems()) {
    supported += forced_plan(Problem::parse(text), "cpu_portable").has_value();
  }
  EXPECT_GE(supported * 10, all_problems().size() * 7);
}

}  // namespace
}  // namespace octavo::tests
