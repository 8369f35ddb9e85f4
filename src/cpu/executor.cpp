#include "octavo/executor.h"

#include <unistd.h>

#include <atomic>
#include <condition_variable>
#include <cstdlib>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

#include "octavo/selection.h"

namespace octavo {
namespace {

/// Tasks of one parallel_for, handed out one at a time.
struct Job {
  std::int64_t count = 0;
  const std::function<void(std::int64_t)>* task = nullptr;
  std::atomic<std::int64_t> next{0};
  std::mutex failure_mutex;
  std::exception_ptr failure;

  void work() {
    for (std::int64_t i = next++; i < count; i = next++) {
      try {
        (*task)(i);
      } catch (...) {
        std::lock_guard lock(failure_mutex);
        if (!failure) failure = std::current_exception();
      }
    }
  }
};

}  // namespace

struct ThreadPool::State {
  std::vector<std::thread> workers;
  std::mutex busy;  // held by the caller whose job the workers do
  std::mutex mutex;
  std::condition_variable wake;
  std::condition_variable done;
  Job* job = nullptr;
  std::uint64_t generation = 0;
  int running = 0;
  bool stop = false;

  void loop() {
    std::uint64_t seen = 0;
    std::unique_lock lock(mutex);
    while (true) {
      wake.wait(lock, [&] { return stop || generation != seen; });
      if (stop) return;
      seen = generation;
      Job* mine = job;
      lock.unlock();
      mine->work();
      lock.lock();
      if (--running == 0) done.notify_one();
    }
  }
};

ThreadPool::ThreadPool(int threads) : state_(std::make_unique<State>()) {
  for (int i = 1; i < threads; ++i) {
    state_->workers.emplace_back([state = state_.get()] { state->loop(); });
  }
}

ThreadPool::~ThreadPool() {
  {
    std::lock_guard lock(state_->mutex);
    state_->stop = true;
  }
  state_->wake.notify_all();
  for (std::thread& worker : state_->workers) worker.join();
}

int ThreadPool::concurrency() const { return static_cast<int>(state_->workers.size()) + 1; }

void ThreadPool::parallel_for(std::int64_t count, const std::function<void(std::int64_t)>& task) {
  Job job;
  job.count = count;
  job.task = &task;
  std::unique_lock busy(state_->busy, std::try_to_lock);
  if (count > 1 && !state_->workers.empty() && busy.owns_lock()) {
    {
      std::lock_guard lock(state_->mutex);
      state_->job = &job;
      state_->running = static_cast<int>(state_->workers.size());
      ++state_->generation;
    }
    state_->wake.notify_all();
    job.work();
    std::unique_lock lock(state_->mutex);
    state_->done.wait(lock, [&] { return state_->running == 0; });
  } else {
    job.work();
  }
  if (job.failure) std::rethrow_exception(job.failure);
}

Executor& default_executor() {
  static std::mutex mutex;
  static ThreadPool* pool = nullptr;  // never destroyed: workers may outlive static destructors
  static pid_t owner = 0;
  std::lock_guard lock(mutex);
  if (pool == nullptr || owner != getpid()) {
    const char* wish = std::getenv("OCTAVO_NUM_THREADS");
    const int threads = wish ? std::atoi(wish) : Device::cpu().threads;
    pool = new ThreadPool(threads > 0 ? threads : 1);
    owner = getpid();
  }
  return *pool;
}

}  // namespace octavo
