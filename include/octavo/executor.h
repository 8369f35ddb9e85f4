#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

namespace octavo {

/// Runs independent tasks on several threads. Callers may pass their own; results do not depend on
/// it.
class Executor {
 public:
  virtual ~Executor() = default;
  virtual int concurrency() const = 0;
  /// Calls task(i) once for each i in [0, count), in any order and on any threads; returns when all
  /// have returned. Rethrows the first exception of a task.
  virtual void parallel_for(std::int64_t count, const std::function<void(std::int64_t)>& task) = 0;
};

/// `threads - 1` workers and the calling thread. A caller that finds the pool busy works alone.
class ThreadPool final : public Executor {
 public:
  explicit ThreadPool(int threads);
  ~ThreadPool() override;
  int concurrency() const override;
  void parallel_for(std::int64_t count, const std::function<void(std::int64_t)>& task) override;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// The threads of an OpenMP runtime: libgomp, libomp or libiomp5, by the path of the shared
/// library. For programs that compute with OpenMP before and after: its threads wait actively for a
/// while, and others that want their processors meanwhile only get a share. Throws
/// Error(unavailable).
std::unique_ptr<Executor> openmp_executor(const std::string& path);

/// What runs where no executor is named. Unless one was set: the process's pool, made on first use,
/// of OCTAVO_NUM_THREADS, or as many threads as the process may run on. A forked child makes its
/// own.
Executor& default_executor();

/// Makes `executor` the default one; null: the process's pool again. It is not taken in forked
/// children, where its threads are not, and lives as long as runs may use it.
void set_default_executor(Executor* executor);

}  // namespace octavo
