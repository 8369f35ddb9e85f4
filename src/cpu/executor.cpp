#include "octavo/executor.h"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <mutex>
#include <thread>
#include <vector>

#include "cpu/job.h"
#include "octavo/selection.h"

namespace octavo {
namespace {

constexpr std::chrono::microseconds kSpin{50};

/// Waits a little for what may happen soon: to sleep and be woken takes tens of microseconds.
template <typename Condition>
void spin_until(Condition condition) {
  const auto end = std::chrono::steady_clock::now() + kSpin;
  while (!condition() && std::chrono::steady_clock::now() < end) std::this_thread::yield();
}

}  // namespace

struct ThreadPool::State {
  std::vector<std::thread> workers;
  std::atomic<bool> busy{false};  // the workers do a caller's job
  std::mutex mutex;
  std::condition_variable wake;
  std::condition_variable done;
  Job* job = nullptr;
  std::atomic<int> wanted{0};  // workers that may still join the job
  std::atomic<int> joined{0};  // workers that do it
  std::atomic<bool> stop{false};

  void loop() {
    std::unique_lock lock(mutex);
    while (true) {
      wake.wait(lock, [&] { return stop || wanted > 0; });
      if (stop) return;
      --wanted;
      ++joined;
      Job* mine = job;
      lock.unlock();
      mine->work();
      lock.lock();
      if (--joined == 0) done.notify_one();
      lock.unlock();
      spin_until([&] { return stop || wanted > 0; });
      lock.lock();
    }
  }

  /// Does the job with the workers. One that wakes up too late is not waited for.
  void run(Job& new_job) {
    const auto helpers =
        static_cast<int>(std::min(new_job.count - 1, static_cast<std::int64_t>(workers.size())));
    {
      std::lock_guard lock(mutex);
      job = &new_job;
      wanted = helpers;
    }
    for (int i = 0; i < helpers; ++i) wake.notify_one();
    new_job.work();
    std::unique_lock lock(mutex);
    wanted = 0;
    lock.unlock();
    spin_until([&] { return joined == 0; });
    lock.lock();
    done.wait(lock, [&] { return joined == 0; });
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
  if (count > 1 && !state_->workers.empty() && !state_->busy.exchange(true)) {
    state_->run(job);
    state_->busy = false;
  } else {
    job.work();
  }
  if (job.failure) std::rethrow_exception(job.failure);
}

namespace {

std::atomic<Executor*> chosen{nullptr};
std::atomic<pid_t> chooser{0};

}  // namespace

void set_default_executor(Executor* executor) {
  chooser = getpid();
  chosen = executor;
}

Executor& default_executor() {
  Executor* const executor = chosen;
  if (executor != nullptr && chooser == getpid()) return *executor;
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
