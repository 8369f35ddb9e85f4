#include <algorithm>
#include <chrono>
#include <cstdio>
#include <vector>

#include "command.h"
#include "verify/case.h"

namespace octavo::cli {
namespace {

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

/// Seconds of one run: the median of as many as fit in a second, at least 5.
double median_time(const Plan& plan, const Arguments& arguments, std::size_t& runs) {
  using Clock = std::chrono::steady_clock;
  plan.run(arguments);
  std::vector<double> times;
  double total = 0;
  while (times.size() < 5 || (total < 1 && times.size() < 10000)) {
    const auto start = Clock::now();
    plan.run(arguments);
    times.push_back(std::chrono::duration<double>(Clock::now() - start).count());
    total += times.back();
  }
  runs = times.size();
  const auto middle = times.begin() + static_cast<std::ptrdiff_t>(times.size() / 2);
  std::nth_element(times.begin(), middle, times.end());
  return *middle;
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

  std::size_t runs = 0;
  const double seconds = median_time(plan, arguments, runs);
  const Work work = count(c);
  const auto dims = static_cast<double>(problem.d + problem.dv);
  const double flop = 2 * dims * work.pairs * static_cast<double>(problem.hq);
  const double bytes = dims * work.tokens * static_cast<double>(problem.hkv) *
                       static_cast<double>(size_of(problem.kv));
  const std::string kernel(plan.kernel());
  if (options.json) {
    std::printf(
        "{\"problem\":%s,\"device\":%s,\"kernel\":%s,\"runs\":%zu,\"median_us\":%s,"
        "\"gflops\":%s,\"kv_gbs\":%s}\n",
        quoted(problem.to_string()).c_str(), quoted(device.id).c_str(), quoted(kernel).c_str(),
        runs, number(seconds * 1e6).c_str(), number(flop / seconds * 1e-9).c_str(),
        number(bytes / seconds * 1e-9).c_str());
  } else {
    std::printf("%s: %.4g us (median of %zu), %.4g GFLOP/s, KV %.4g GB/s\n", kernel.c_str(),
                seconds * 1e6, runs, flop / seconds * 1e-9, bytes / seconds * 1e-9);
  }
  return kPassed;
}

}  // namespace octavo::cli
