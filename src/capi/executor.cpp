#include "capi/executor.h"

#include <atomic>
#include <exception>
#include <mutex>
#include <vector>

#include "capi/guard.h"
#include "core/text.h"
#include "octavo/error.h"

namespace octavo::capi {
namespace {

/// One parallel_for, and what the caller made of it.
struct Job {
  const std::function<void(std::int64_t)>& task;
  std::vector<std::atomic<bool>> begun;
  std::atomic<std::int64_t> finished{0};
  std::mutex failure_mutex;
  std::exception_ptr failure;

  void run(std::int64_t index) noexcept {
    try {
      if (index < 0 || index >= static_cast<std::int64_t>(begun.size()) ||
          begun[static_cast<std::size_t>(index)].exchange(true)) {
        throw Error(ErrorCode::invalid_argument,
                    concat("executor.parallel_for called task ", index, " of ", begun.size(),
                           ": must be each from 0 once"));
      }
      task(index);
      ++finished;
    } catch (...) {
      std::lock_guard lock(failure_mutex);
      if (!failure) failure = std::current_exception();
    }
  }
};

extern "C" {
static void run_task(void* job, std::int64_t index) { static_cast<Job*>(job)->run(index); }
}

}  // namespace

ForeignExecutor::ForeignExecutor(const octavo_executor& executor) : executor_(executor) {
  require_version("executor", executor_);
  if (executor_.concurrency < 1) {
    throw Error(ErrorCode::invalid_argument,
                concat("executor.concurrency=", executor_.concurrency, ": must be at least 1"));
  }
  if (executor_.parallel_for == nullptr) {
    throw Error(ErrorCode::invalid_argument, "executor.parallel_for is a null pointer");
  }
}

int ForeignExecutor::concurrency() const { return executor_.concurrency; }

void ForeignExecutor::parallel_for(std::int64_t count,
                                   const std::function<void(std::int64_t)>& task) {
  Job job{task, std::vector<std::atomic<bool>>(static_cast<std::size_t>(count)), {}, {}, {}};
  executor_.parallel_for(executor_.context, count, run_task, &job);
  if (job.failure) std::rethrow_exception(job.failure);
  if (job.finished != count) {
    throw Error(ErrorCode::invalid_argument, concat("executor.parallel_for finished ",
                                                    job.finished.load(), " of ", count, " tasks"));
  }
}

}  // namespace octavo::capi
