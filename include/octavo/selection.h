#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "octavo/arguments.h"
#include "octavo/executor.h"
#include "octavo/problem.h"

namespace octavo {

/// What selection knows of the machine a plan runs on.
struct Device {
  std::string id;    ///< cpu, cuda:0
  std::string name;  ///< the vendor's name of the processor
  int threads = 1;   ///< hardware threads this process may use

  // Of a GPU; 0 on the CPU.
  int ordinal = 0;
  int capability = 0;  ///< compute capability: 80, 86, 89, 90, 100, 103, 120, 121
  int multiprocessors = 0;
  int shared_per_block = 0;  ///< bytes of shared memory that a block may opt in to
  std::int64_t l2_bytes = 0;
  double memory_gbs = 0;  ///< what its memory's clock and width allow, 1e9 bytes/s

  static Device cpu();
  /// `cpu` or `cuda:N`; throws Error(unavailable) for a device that is not there.
  static Device parse(std::string_view id);
};

struct KernelInfo;

/// One kernel's answer to a problem.
struct Candidate {
  const KernelInfo* kernel = nullptr;
  std::vector<std::string> reasons;  ///< why it cannot; empty if it can
  double cost_us = 0;                ///< predicted time, if it can
};

/// A problem bound to a kernel. Immutable: threads may share it and run it at once.
class Plan {
 public:
  std::string_view kernel() const;
  const Problem& problem() const { return *problem_; }
  std::size_t workspace_size() const;
  /// What the weights of the softmax are rounded to before they multiply V.
  DType weights() const;
  /// Throws Error(invalid_argument) before any output is touched.
  void run(const Arguments& arguments, Executor& executor) const;
  void run(const Arguments& arguments) const { run(arguments, default_executor()); }

 private:
  friend class Selection;
  std::shared_ptr<const Problem> problem_;
  const KernelInfo* kernel_ = nullptr;
};

/// Who computes the problem, and why not the others.
class Selection {
 public:
  std::string_view kernel() const;
  const std::vector<Candidate>& candidates() const { return candidates_; }
  std::string to_string() const;
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

}  // namespace octavo
