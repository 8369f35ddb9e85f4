#pragma once

#include <functional>
#include <optional>
#include <vector>

#include "cuda/buffer.h"
#include "cuda/driver.h"
#include "octavo/octavo.h"

namespace octavo::cli {

/// Clocks for work that is enqueued on a stream of a GPU.
class GpuTimer {
 public:
  /// Enqueues the work once on the stream.
  using Enqueue = std::function<void(Stream)>;

  explicit GpuTimer(const Device& device);
  ~GpuTimer();
  GpuTimer(const GpuTimer&) = delete;
  GpuTimer& operator=(const GpuTimer&) = delete;

  /// Sorted seconds on the device, each after the caches were flushed.
  std::vector<double> cold_times(const Enqueue& enqueue);
  /// Seconds on the device of one of many in a CUDA graph, replayed with whatever the caches hold.
  double graph_time(const Enqueue& enqueue);
  /// Seconds that the host takes to enqueue once.
  double host_time(const Enqueue& enqueue);

 private:
  Stream stream() const { return {stream_}; }
  void wait();

  int ordinal_;
  cuda::StreamHandle stream_ = nullptr;
  cuda::Buffer flushed_;
};

}  // namespace octavo::cli
