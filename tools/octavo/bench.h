#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "command.h"
#include "machine_limits.h"

namespace octavo::cli {

/// A problem's run on random data.
struct Measurement {
  std::string kernel;
  std::size_t runs = 0;
  double median = 0;  ///< seconds
  double least = 0;
  Work work;

  double gflops() const { return 1e-9 * work.flops / median; }
  double kv_gbs() const { return 1e-9 * work.kv_bytes / median; }
};

/// Throws Error(unsupported) if the kernel that the options name, or every kernel, refuses.
Measurement measure(const Problem& problem, const Options& options);

/// The fields of a measurement in JSON, without braces.
std::string json_fields(const Measurement& measurement);

struct NamedProblem {
  std::string name;
  Problem problem;
};

/// The problems of the file that the options name, which match.
std::vector<NamedProblem> pick_cases(const Options& options);

int run_bench_cases(const Options& options);
/// One problem or a file of them on a GPU: from cold caches, in a graph, and the host's part.
int run_bench_gpu(const Options& options);
int run_bench_limits(const Options& options);

}  // namespace octavo::cli
