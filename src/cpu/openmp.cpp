#include <dlfcn.h>

#include <memory>
#include <string>

#include "cpu/job.h"
#include "octavo/error.h"
#include "octavo/executor.h"

namespace octavo {
namespace {

// What gcc's code calls for `#pragma omp parallel`; libgomp, libomp and libiomp5 have it.
using Parallel = void(void (*body)(void*), void* data, unsigned threads, unsigned flags);

template <typename Function>
Function* function_of(void* library, const std::string& path, const char* name) {
  void* found = dlsym(library, name);
  if (found == nullptr) {
    const std::string where = path.empty() ? "the process" : path;
    throw Error(ErrorCode::unavailable, where + " has no " + name);
  }
  return reinterpret_cast<Function*>(found);
}

class OpenMp final : public Executor {
 public:
  OpenMp(void* library, const std::string& path)
      : parallel_(function_of<Parallel>(library, path, "GOMP_parallel")),
        max_threads_(function_of<int()>(library, path, "omp_get_max_threads")) {}

  int concurrency() const override { return max_threads_(); }

  void parallel_for(std::int64_t count, const std::function<void(std::int64_t)>& task) override {
    Job job;
    job.count = count;
    job.task = &task;
    if (count > 1) {
      parallel_([](void* data) { static_cast<Job*>(data)->work(); }, &job, 0, 0);
    } else {
      job.work();
    }
    if (job.failure) std::rethrow_exception(job.failure);
  }

 private:
  Parallel* parallel_;
  int (*max_threads_)();
};

}  // namespace

std::unique_ptr<Executor> openmp_executor(const std::string& path) {
  // Never closed: its threads go on.
  void* library = dlopen(path.empty() ? nullptr : path.c_str(), RTLD_LAZY | RTLD_LOCAL);
  if (library == nullptr) throw Error(ErrorCode::unavailable, dlerror());
  return std::make_unique<OpenMp>(library, path);
}

}  // namespace octavo
