#include "core/kernel.h"

#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "octavo/octavo.h"
#include "problems.h"
#include "verify/verify.h"

namespace octavo::tests {
namespace {

/// Whose kernels are tested: the one that the environment variable OCTAVO_TEST_DEVICE names.
const Device& device() {
  static const Device device = [] {
    const char* id = std::getenv("OCTAVO_TEST_DEVICE");
    return Device::parse(id == nullptr ? "cpu" : id);
  }();
  return device;
}

/// The last of a device's table supports every problem.
bool is_reference(const std::string& kernel) { return kernel == kernel_names(device()).back(); }

/// The plan of a forced kernel, or nothing where the kernel refuses the problem.
std::optional<Plan> forced_plan(const Problem& problem, const std::string& kernel) {
  try {
    return select(problem, device(), kernel).plan();
  } catch (const Error& error) {
    if (error.code() != ErrorCode::unsupported) throw;
    return std::nullopt;
  }
}

/// Why a kernel says it cannot; empty if it can.
std::vector<std::string> reasons_of(const Problem& problem, const std::string& kernel) {
  const Selection selection = select(problem, device());
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
    select(problem, device(), kernel);
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
  for (const std::string& kernel : kernel_names(device())) {
    const std::optional<Plan> plan = forced_plan(problem, kernel);
    if (!plan) {
      EXPECT_FALSE(is_reference(kernel)) << "refused " << GetParam();
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
  std::vector<Problem> problems;
  for (const std::string& text : full()) problems.push_back(Problem::parse(text));
  verify::load_code(problems, device(), kernel);
  ThreadPool pool(1);
  std::map<std::string, int> refusals;
  int right = 0;
  for (const Problem& problem : problems) {
    const std::vector<std::string> reasons = reasons_of(problem, kernel);
    for (const std::string& reason : reasons) ++refusals[reason];
    if (!reasons.empty()) {
      expect_refusal(problem, kernel, reasons);
      continue;
    }
    const verify::Result result = verify::verify(select(problem, device(), kernel).plan(), 1, pool);
    ASSERT_TRUE(result.passed) << kernel << ": " << problem.to_string() << " seed 1\n"
                               << result.failure;
    ++right;
  }
  std::printf("%s: %d right, %d refused\n", kernel.c_str(), right,
              static_cast<int>(problems.size()) - right);
  for (const auto& [reason, count] : refusals) std::printf("%6d %s\n", count, reason.c_str());
  EXPECT_TRUE(!is_reference(kernel) || refusals.empty());
}

INSTANTIATE_TEST_SUITE_P(Full, KernelOnAll, testing::ValuesIn(kernel_names(device())),
                         [](const auto& kernel) { return kernel.param; });

TEST(Kernels, PortableSupportsMostProblems) {
  const std::string portable = device().is_cpu() ? "cpu_portable" : "cuda_portable";
  std::size_t supported = 0;
  for (const std::string& text : all_problems()) {
    supported += reasons_of(Problem::parse(text), portable).empty();
  }
  EXPECT_GE(supported * 10, all_problems().size() * 7);
}

}  // namespace
}  // namespace octavo::tests
