#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "octavo/arguments.h"
#include "octavo/executor.h"
#include "octavo/problem.h"
#include "octavo/stream.h"

namespace octavo {

/// What selection knows of the machine a plan runs on.
struct Device {
  std::string id;    ///< cpu, cuda:0
  std::string name;  ///< the vendor's name of the processor
  int threads = 1;   ///< hardware threads this process may use; of a GPU 1

  // Of a GPU; 0 on the CPU.
  int ordinal = 0;     ///< N of cuda:N
  int capability = 0;  ///< compute capability: 80, 86, 89, 90, 100, 103, 120, 121
  int multiprocessors = 0;
  int shared_per_block = 0;  ///< bytes of shared memory that a block may opt in to
  std::int64_t l2_bytes = 0;
  double memory_gbs = 0;  ///< what its memory's clock and width allow, 1e9 bytes/s

  bool is_cpu() const { return capability == 0; }
  /// The name and what selection knows besides, for people to read.
  std::string to_string() const;

  static Device cpu();
  /// `cpu` or `cuda:N`; throws Error(unavailable) that says why the device is not there.
  static Device parse(std::string_view id);
};

struct KernelInfo;
class StreamKernel;

/// One kernel's answer to a problem.
struct Candidate {
  const KernelInfo* kernel = nullptr;
  std::vector<std::string> reasons;  ///< why it cannot; empty if it can
  double cost_us = 0;                ///< predicted time, if it can
};

/// A problem bound to a kernel of a device. Immutable: threads may share it and run it at once.
class Plan {
 public:
  std::string_view kernel() const;
  const Problem& problem() const { return *problem_; }
  const Device& device() const { return device_; }
  std::size_t workspace_size() const;  ///< bytes
  /// What the weights of the softmax are rounded to before they multiply V.
  DType weights() const;
  /// Computes on the CPU. Throws Error(invalid_argument) before any output is touched.
  void run(const Arguments& arguments, Executor& executor) const;
  /// Enqueues the work on a stream of the plan's GPU, where every pointer of the arguments leads to
  /// memory that the GPU reads: lengths, page ids and scales too. Neither allocates nor waits, and
  /// a CUDA graph may capture it. Throws Error(invalid_argument) before anything is enqueued, and
  /// Error(device_error) where the driver refuses.
  ///
  /// The host does not see lengths and page ids: what breaks the plan's bounds is undefined. With
  /// the environment variable OCTAVO_CUDA_CHECK=1 the device checks them first; the run then waits
  /// for it, cannot be captured, and throws Error(invalid_argument).
  void run(const Arguments& arguments, Stream stream) const;
  /// On the process's threads, or on the GPU's default stream.
  void run(const Arguments& arguments) const;

 private:
  friend class Selection;
  std::shared_ptr<const Problem> problem_;
  Device device_;
  const KernelInfo* kernel_ = nullptr;
  std::shared_ptr<const StreamKernel> code_;  ///< on devices with streams
};

/// Who computes the problem, and why not the others.
class Selection {
 public:
  std::string_view kernel() const;
  const std::vector<Candidate>& candidates() const { return candidates_; }
  std::string to_string() const;
  /// On a GPU this loads the kernel's code, or compiles it where it was not yet; throws
  /// Error(unavailable) where that needs a compiler and there is none.
  Plan plan() const;

 private:
  friend Selection select_from(const std::vector<KernelInfo>&, const Problem&, const Device&,
                               std::string_view);
  std::shared_ptr<const Problem> problem_;
  Device device_;
  std::vector<Candidate> candidates_;
  std::size_t winner_ = 0;
  bool forced_ = false;
};

/// Validates the problem and picks the cheapest kernel that says it can. `kernel`, or else the
/// environment variable OCTAVO_KERNEL, forces one by name; one that is unknown or cannot is
/// Error(unsupported) with the reasons. OCTAVO_LOG=selection prints each selection to stderr.
Selection select(const Problem& problem, const Device& device, std::string_view kernel = {});

/// The kernels of a device, in the order of its table.
std::vector<std::string> kernel_names(const Device& device);

/// How many GPUs there are. Throws Error(unavailable) that says why there are none.
int gpu_count();

}  // namespace octavo
