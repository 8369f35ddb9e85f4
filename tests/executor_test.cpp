#include "octavo/executor.h"

#include <gtest/gtest.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "octavo/error.h"

namespace octavo {
namespace {

/// libgomp comes with gcc.
std::unique_ptr<Executor> openmp() { return openmp_executor("libgomp.so.1"); }

TEST(OpenMp, CallsEachTaskOnce) {
  const std::unique_ptr<Executor> executor = openmp();
  EXPECT_GE(executor->concurrency(), 1);
  for (const std::int64_t count : {0, 1, 2, 1000}) {
    std::vector<std::atomic<int>> calls(static_cast<std::size_t>(count));
    executor->parallel_for(count, [&](std::int64_t i) { ++calls[i]; });
    for (const std::atomic<int>& call : calls) EXPECT_EQ(call, 1);
  }
}

TEST(OpenMp, RethrowsATasksException) {
  const std::unique_ptr<Executor> executor = openmp();
  std::atomic<int> calls{0};
  EXPECT_THROW(executor->parallel_for(100,
                                      [&](std::int64_t i) {
                                        ++calls;
                                        if (i == 40) throw std::runtime_error("task 40");
                                      }),
               std::runtime_error);
  EXPECT_EQ(calls, 100);
}

TEST(OpenMp, RefusesWhatIsNoRuntime) {
  for (const char* path : {"/nowhere/libgomp.so", "libm.so.6"}) {
    try {
      (void)openmp_executor(path);
      FAIL() << path << " was taken";
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::unavailable);
      EXPECT_NE(std::string(error.what()).find(path), std::string::npos) << error.what();
    }
  }
}

TEST(OpenMp, IsNotInEveryProcess) {
  try {
    const std::unique_ptr<Executor> preloaded = openmp_executor("");
    EXPECT_GE(preloaded->concurrency(), 1);
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(), "the process has no GOMP_parallel");
  }
}

TEST(DefaultExecutor, IsTheOneThatWasSet) {
  Executor* const own = &default_executor();
  ThreadPool replacement(1);
  set_default_executor(&replacement);
  EXPECT_EQ(&default_executor(), &replacement);
  set_default_executor(nullptr);
  EXPECT_EQ(&default_executor(), own);
}

}  // namespace
}  // namespace octavo
