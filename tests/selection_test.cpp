#include <gtest/gtest.h>

#include <algorithm>
#include <string>

#include "core/kernel.h"
#include "cpu/table.h"
#include "octavo/octavo.h"
#include "problems.h"

namespace octavo::tests {
namespace {

const char kSimple[] = "paged q=bf16 kv=bf16 hq=2 hkv=1 d=64 mask=causal q_len=1 kv_len=9";

std::string refusal(const std::string& text, std::string_view kernel) {
  try {
    select(Problem::parse(text), Device::cpu(), kernel);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::unsupported) << error.what();
    return error.what();
  }
  ADD_FAILURE() << kernel << " accepted " << text;
  return {};
}

TEST(Selection, EveryListedProblemSelectsAKernelThatSaidYes) {
  for (const std::string& text : all_problems()) {
    const Selection selection = select(Problem::parse(text), Device::cpu());
    EXPECT_FALSE(selection.kernel().empty()) << text;
    EXPECT_EQ(selection.plan().kernel(), selection.kernel()) << text;
    EXPECT_EQ(selection.plan().problem(), Problem::parse(text));
  }
}

TEST(Selection, SameProblemSameKernel) {
  for (const std::string& text : all_problems()) {
    const Problem problem = Problem::parse(text);
    EXPECT_EQ(select(problem, Device::cpu()).kernel(), select(problem, Device::cpu()).kernel());
  }
}

/// A kernel that is quick at decode only.
KernelInfo decode_kernel() {
  KernelInfo kernel = cpu_kernels().back();
  kernel.name = "decode";
  kernel.cost_us = [](const Problem& p, const Device&) { return p.max_q_len() == 1 ? 0.0 : 1e9; };
  return kernel;
}

TEST(Selection, LengthsDecideUnlessTheProblemIsInvariant) {
  const std::vector<KernelInfo> table = {decode_kernel(), cpu_kernels().back()};
  const auto selected = [&](const std::string& rest) {
    const std::string text = "paged q=bf16 hq=2 hkv=1 d=64 mask=causal kv_len=300 " + rest;
    return std::string(select_from(table, Problem::parse(text), Device::cpu(), {}).kernel());
  };
  EXPECT_EQ(selected("q_len=1"), "decode");
  EXPECT_EQ(selected("q_len=300"), "cpu_reference");
  EXPECT_EQ(selected("q_len=1 invariant"), selected("q_len=300 invariant"));
}

TEST(Selection, ReferenceSupportsEveryListedProblem) {
  for (const std::string& text : all_problems()) {
    EXPECT_EQ(select(Problem::parse(text), Device::cpu(), "cpu_reference").kernel(),
              "cpu_reference")
        << text;
  }
}

TEST(Selection, TableEndsInTheReference) {
  const auto names = kernel_names(Device::cpu());
  ASSERT_FALSE(names.empty());
  EXPECT_EQ(names.back(), "cpu_reference");
  EXPECT_NE(std::find(names.begin(), names.end(), "cpu_portable"), names.end());
}

TEST(Selection, UnknownKernelIsRefusedByName) {
  EXPECT_NE(refusal(kSimple, "cpu_imaginary").find("cpu_imaginary"), std::string::npos);
}

TEST(Selection, ForcedKernelThatCannotSaysWhy) {
  const std::string message =
      refusal("paged q=f32 kv=f32 hq=1 hkv=1 d=4 page=16 q_len=1 kv_len=9", "cpu_portable");
  EXPECT_NE(message.find("cpu_portable"), std::string::npos) << message;
  EXPECT_NE(message.find('4'), std::string::npos) << message;
}

TEST(Selection, InvalidProblemIsRefusedBeforeKernelsAreAsked) {
  try {
    select(Problem::parse("paged q=bf16 kv=bf16 hq=7 hkv=2 d=64 q_len=1 kv_len=1"), Device::cpu());
    FAIL() << "accepted";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::invalid_problem);
  }
}

TEST(Selection, UnknownDeviceIsAnError) {
  EXPECT_THROW(Device::parse("abacus"), Error);
  EXPECT_THROW(Device::parse(""), Error);
  EXPECT_EQ(Device::parse("cpu").id, "cpu");
}

TEST(Selection, PrintsEveryKernel) {
  const Selection selection = select(Problem::parse(kSimple), Device::cpu());
  const std::string printed = selection.to_string();
  for (const std::string& name : kernel_names(Device::cpu())) {
    EXPECT_NE(printed.find(name), std::string::npos) << printed;
  }
  EXPECT_EQ(selection.candidates().size(), kernel_names(Device::cpu()).size());
}

}  // namespace
}  // namespace octavo::tests
