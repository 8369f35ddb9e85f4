#include <algorithm>
#include <chrono>
#include <cstdio>
#include <vector>

#include "command.h"
#include "verify/case.h"

namespace octavo::cli {
namespace {

/// What the problem asks for, however a kernel computes it.
struct Work {
  double pairs = 0;   ///< of a query token and a key that it sees
  double tokens = 0;  ///< keys that some query sees
};

Work count(const verify::Case& c) {
  Work work;
  const Problem& p = c.problem();
  for (std::int64_t r = 0; r < p.batch(); ++r) {
    for (std::int64_t j = 0; j < p.kv_len[r]; ++j) {
      std::int64_t queries = 0;
      for (std::int64_t i = 0; i < p.q_len[r]; ++i) queries += c.sees(r, i, j) ? 1 : 0;
      work.pairs += static_cast<double>(queries);
      work.tokens += queries > 0 ? 1 : 0;
    }
  }
  return work;
}

struct Times {
  std::size_t runs = 0;
  double median = 0;  ///< seconds
  double least = 0;
};

/// Of as many runs as fit in a second, at least 5, after a warm-up of at least one run.
Times measure(const Plan& plan, const Arguments& arguments, Executor& executor) {
  using Clock = std::chrono::steady_clock;
  const auto run = [&] {
    const auto start = Clock::now();
    plan.run(arguments, executor);
    return std::chrono::duration<double>(Clock::now() - start).count();
  };
  for (double total = 0; total < 0.1;) total += run();
  std::vector<double> times;
  for (double total = 0; times.size() < 5 || (total < 1 && times.size() < 10000);) {
    times.push_back(run());
    total += times.back();
  }
  std::sort(times.begin(), times.end());
  return {times.size(), times[times.size() / 2], times.front()};
}

}  // namespace

int run_bench(const Options& options) {
  const Device device = Device::parse(options.device);
  const Problem problem = Problem::parse(options.problem);
  const Plan plan = select(problem, device, options.kernel).plan();
  const verify::Case c(problem, options.seed.value_or(0), 0);
  // A workspace that lives across runs, so that only the computation is timed.
  verify::GuardedBuffer workspace(plan.workspace_size(), 0);
  Arguments arguments = c.arguments();
  arguments.workspace = {workspace.data(), workspace.size()};

  Executor& executor = default_executor();
  const Times times = measure(plan, arguments, executor);
  const Work work = count(c);
  const auto dims = static_cast<double>(problem.d + problem.dv);
  const double gflops = 2e-9 * dims * work.pairs * static_cast<double>(problem.hq) / times.median;
  const double kv_gbs = 1e-9 * dims * work.tokens * static_cast<double>(problem.hkv) *
                        static_cast<double>(size_of(problem.kv)) / times.median;
  const std::string kernel(plan.kernel());
  if (options.json) {
    std::printf(
        "{\"problem\":%s,\"device\":%s,\"kernel\":%s,\"threads\":%d,\"runs\":%zu,"
        "\"median_us\":%s,\"least_us\":%s,\"gflops\":%s,\"kv_gbs\":%s}\n",
        quoted(problem.to_string()).c_str(), quoted(device.id).c_str(), quoted(kernel).c_str(),
        executor.concurrency(), times.runs, number(times.median * 1e6).c_str(),
        number(times.least * 1e6).c_str(), number(gflops).c_str(), number(kv_gbs).c_str());
  } else {
    std::printf("%s, %d threads: %.4g us (median of %zu, least %.4g), %.4g GFLOP/s, KV %.4g GB/s\n",
                kernel.c_str(), executor.concurrency(), times.median * 1e6, times.runs,
                times.least * 1e6, gflops, kv_gbs);
  }
  return kPassed;
}

}  // namespace octavo::cli
