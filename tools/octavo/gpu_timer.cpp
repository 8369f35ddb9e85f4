#include "gpu_timer.h"

#include <algorithm>
#include <chrono>

#include "cuda/device.h"

namespace octavo::cli {
namespace {

using cuda::check;
using cuda::driver;

constexpr std::string_view kDoing = "while timing";
constexpr int kWarmUps = 3;
constexpr int kRuns = 100;
constexpr double kLongest = 0.5;  // seconds of one measurement, about
constexpr int kCaches = 5;        // a flush writes so many times what the L2 cache holds
constexpr unsigned kNonBlocking = 1;
constexpr int kCaptureRelaxed = 2;

class Event {
 public:
  Event() { check(driver().event_create(&handle_, 0), "cuEventCreate", kDoing); }
  ~Event() { driver().event_destroy(handle_); }
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;

  void record(cuda::StreamHandle stream) {
    check(driver().event_record(handle_, stream), "cuEventRecord", kDoing);
  }
  double seconds_to(const Event& end) const {
    float milliseconds = 0;
    check(driver().event_wait(end.handle_), "cuEventSynchronize", kDoing);
    check(driver().event_milliseconds(&milliseconds, handle_, end.handle_), "cuEventElapsedTime",
          kDoing);
    return milliseconds * 1e-3;
  }

 private:
  cuda::Event handle_ = nullptr;
};

/// A CUDA graph of the same work, many times.
class Replay {
 public:
  Replay(cuda::StreamHandle stream, const GpuTimer::Enqueue& enqueue, int times) : stream_(stream) {
    check(driver().capture_begin(stream, kCaptureRelaxed), "cuStreamBeginCapture", kDoing);
    for (int i = 0; i < times; ++i) enqueue(Stream{stream});
    check(driver().capture_end(stream, &graph_), "cuStreamEndCapture", kDoing);
    check(driver().graph_instantiate(&exec_, graph_, 0), "cuGraphInstantiate", kDoing);
  }
  ~Replay() {
    if (exec_ != nullptr) driver().graph_exec_destroy(exec_);
    if (graph_ != nullptr) driver().graph_destroy(graph_);
  }
  Replay(const Replay&) = delete;
  Replay& operator=(const Replay&) = delete;

  double seconds() {
    Event start;
    Event end;
    start.record(stream_);
    check(driver().graph_launch(exec_, stream_), "cuGraphLaunch", kDoing);
    end.record(stream_);
    return start.seconds_to(end);
  }

 private:
  cuda::StreamHandle stream_;
  cuda::Graph graph_ = nullptr;
  cuda::GraphExec exec_ = nullptr;
};

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

}  // namespace

GpuTimer::GpuTimer(const Device& device)
    : ordinal_(device.ordinal),
      flushed_(device.ordinal, static_cast<std::size_t>(kCaches * device.l2_bytes)) {
  const cuda::CurrentContext context(ordinal_);
  check(driver().stream_create(&stream_, kNonBlocking), "cuStreamCreate", kDoing);
}

GpuTimer::~GpuTimer() { driver().stream_destroy(stream_); }

void GpuTimer::wait() { check(driver().stream_wait(stream_), "cuStreamSynchronize", kDoing); }

std::vector<double> GpuTimer::cold_times(const Enqueue& enqueue) {
  const cuda::CurrentContext context(ordinal_);
  for (int i = 0; i < kWarmUps; ++i) enqueue(stream());
  wait();
  const auto address = reinterpret_cast<std::uintptr_t>(flushed_.data());
  std::vector<double> times;
  for (double total = 0; times.size() < 5 || (times.size() < kRuns && total < kLongest);) {
    Event start;
    Event end;
    check(driver().set_bytes(address, 0, flushed_.size(), stream_), "cuMemsetD8Async", kDoing);
    start.record(stream_);
    enqueue(stream());
    end.record(stream_);
    times.push_back(start.seconds_to(end));
    total += times.back();
  }
  std::sort(times.begin(), times.end());
  return times;
}

double GpuTimer::graph_time(const Enqueue& enqueue) {
  const cuda::CurrentContext context(ordinal_);
  constexpr int kMany = 20;
  const double once = Replay(stream_, enqueue, 1).seconds();
  const int times = once * kMany < kLongest ? kMany : 1;
  Replay replay(stream_, enqueue, times);
  replay.seconds();  // the first launch uploads the graph
  std::vector<double> seconds;
  for (double total = 0; seconds.size() < 3 || (seconds.size() < 20 && total < kLongest);) {
    seconds.push_back(replay.seconds());
    total += seconds.back();
  }
  return median(seconds) / times;
}

double GpuTimer::host_time(const Enqueue& enqueue) {
  using Clock = std::chrono::steady_clock;
  constexpr int kBurst = 32;  // the layers of a step; a full queue would let the host wait
  const cuda::CurrentContext context(ordinal_);
  std::vector<double> times;
  const auto begin = Clock::now();
  const auto elapsed = [&] { return std::chrono::duration<double>(Clock::now() - begin).count(); };
  for (int bursts = 0; bursts < 10 && elapsed() < kLongest; ++bursts) {
    for (int call = 0; call < kBurst; ++call) {
      const auto start = Clock::now();
      enqueue(stream());
      times.push_back(std::chrono::duration<double>(Clock::now() - start).count());
    }
    wait();
  }
  return median(times);
}

}  // namespace octavo::cli
