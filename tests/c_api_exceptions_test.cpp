// What the C API makes of C++ exceptions, which C cannot throw.
#include <gtest/gtest.h>

#include <new>
#include <stdexcept>
#include <string>

#include "octavo/c.h"

namespace octavo::tests {
namespace {

struct Outcome {
  octavo_code code;
  std::string message;
};

using ParallelFor = decltype(octavo_executor::parallel_for);

/// Runs a small problem on an executor that does this.
Outcome run_on(ParallelFor parallel_for) {
  octavo_plan* plan = nullptr;
  EXPECT_EQ(octavo_plan_create("ragged q=f32 hq=1 d=8 q_len=1 kv_len=1", "cpu", nullptr, &plan),
            OCTAVO_OK);
  float values[8] = {};
  float out[8] = {};
  const std::int32_t length = 1;
  const std::int64_t rows[] = {1, 1, 8};
  const std::int64_t tokens[] = {1, 1, 1, 8};
  octavo_arguments arguments = OCTAVO_ARGUMENTS_INIT;
  arguments.q = octavo_dense(values, OCTAVO_F32, 3, rows);
  arguments.k = arguments.v = octavo_dense(values, OCTAVO_F32, 4, tokens);
  arguments.requests = 1;
  arguments.q_lens = arguments.kv_lens = &length;
  arguments.out = octavo_dense(out, OCTAVO_F32, 3, rows);
  octavo_executor executor = OCTAVO_EXECUTOR_INIT;
  executor.parallel_for = parallel_for;
  const octavo_code code = octavo_plan_run(plan, &arguments, &executor);
  Outcome outcome{code, octavo_last_error()};
  EXPECT_EQ(octavo_plan_destroy(plan), OCTAVO_OK);
  return outcome;
}

TEST(CApiExceptions, OutOfMemory) {
  const Outcome outcome =
      run_on([](void*, std::int64_t, octavo_task, void*) { throw std::bad_alloc(); });
  EXPECT_EQ(outcome.code, OCTAVO_OUT_OF_MEMORY);
  EXPECT_EQ(outcome.message, "out of memory");
}

TEST(CApiExceptions, StandardException) {
  const Outcome outcome = run_on(
      [](void*, std::int64_t, octavo_task, void*) { throw std::runtime_error("no threads left"); });
  EXPECT_EQ(outcome.code, OCTAVO_INTERNAL);
  EXPECT_EQ(outcome.message, "no threads left");
}

TEST(CApiExceptions, AnythingElse) {
  const Outcome outcome = run_on([](void*, std::int64_t, octavo_task, void*) { throw 42; });
  EXPECT_EQ(outcome.code, OCTAVO_INTERNAL);
  EXPECT_FALSE(outcome.message.empty());
}

}  // namespace
}  // namespace octavo::tests
