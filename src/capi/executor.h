#pragma once

#include "octavo/c.h"
#include "octavo/executor.h"

namespace octavo::capi {

/// The caller's threads behind the library's interface. Exceptions of tasks do not pass through the
/// caller's code.
class ForeignExecutor final : public Executor {
 public:
  /// Throws Error(invalid_argument) for a struct of another version or without threads.
  explicit ForeignExecutor(const octavo_executor& executor);
  int concurrency() const override;
  /// Throws Error(invalid_argument) if the caller did not run each task once.
  void parallel_for(std::int64_t count, const std::function<void(std::int64_t)>& task) override;

 private:
  octavo_executor executor_;
};

}  // namespace octavo::capi
