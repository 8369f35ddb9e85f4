#include "bench.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <vector>

#include "core/text.h"
#include "verify/case.h"

namespace octavo::cli {
namespace {

Work count(const verify::Case& c) {
  const Problem& p = c.problem();
  double pairs = 0;   // of a query token and a key that it sees
  double tokens = 0;  // keys that some query sees
  for (std::int64_t r = 0; r < p.batch(); ++r) {
    for (std::int64_t j = 0; j < p.kv_len[r]; ++j) {
      std::int64_t queries = 0;
      for (std::int64_t i = 0; i < p.q_len[r]; ++i) queries += c.sees(r, i, j) ? 1 : 0;
      pairs += static_cast<double>(queries);
      tokens += queries > 0 ? 1 : 0;
    }
  }
  const auto dims = static_cast<double>(p.d + p.dv);
  return {
      .flops = 2 * dims * pairs * static_cast<double>(p.hq),
      .kv_bytes = dims * tokens * static_cast<double>(p.hkv) * static_cast<double>(size_of(p.kv))};
}

/// Sorted seconds of as many runs as fit in one, at least 5, after a warm-up of at least one run.
std::vector<double> times_of(const Plan& plan, const Arguments& arguments) {
  using Clock = std::chrono::steady_clock;
  const auto run = [&] {
    const auto start = Clock::now();
    plan.run(arguments);
    return std::chrono::duration<double>(Clock::now() - start).count();
  };
  for (double total = 0; total < 0.1;) total += run();
  std::vector<double> times;
  for (double total = 0; times.size() < 5 || (total < 1 && times.size() < 10000);) {
    times.push_back(run());
    total += times.back();
  }
  std::sort(times.begin(), times.end());
  return times;
}

}  // namespace

Measurement measure(const Problem& problem, const Options& options) {
  const Plan plan = select(problem, Device::parse(options.device), options.kernel).plan();
  const verify::Case c(problem, options.seed.value_or(0));
  // A workspace that lives across runs, so that only the computation is timed.
  verify::GuardedBuffer workspace(plan.workspace_size(), 0);
  Arguments arguments = c.arguments();
  arguments.workspace = {workspace.data(), workspace.size()};
  const std::vector<double> times = times_of(plan, arguments);
  return {.kernel = std::string(plan.kernel()),
          .runs = times.size(),
          .median = times[times.size() / 2],
          .least = times.front(),
          .work = count(c)};
}

std::string json_fields(const Measurement& m) {
  return concat("\"kernel\":", quoted(m.kernel), ",\"threads\":", default_executor().concurrency(),
                ",\"runs\":", m.runs, ",\"median_us\":", number(m.median * 1e6),
                ",\"least_us\":", number(m.least * 1e6), ",\"gflops\":", number(m.gflops()),
                ",\"kv_gbs\":", number(m.kv_gbs()));
}

int run_bench(const Options& options) {
  if (options.device != "cpu") return run_bench_gpu(options);
  if (options.limits) return run_bench_limits(options);
  if (!options.cases.empty()) return run_bench_cases(options);
  const Problem problem = Problem::parse(options.problem);
  const Measurement m = measure(problem, options);
  if (options.json) {
    std::printf("{\"problem\":%s,\"device\":%s,%s}\n", quoted(problem.to_string()).c_str(),
                quoted(Device::parse(options.device).id).c_str(), json_fields(m).c_str());
  } else {
    std::printf("%s, %d threads: %.4g us (median of %zu, least %.4g), %.4g GFLOP/s, KV %.4g GB/s\n",
                m.kernel.c_str(), default_executor().concurrency(), m.median * 1e6, m.runs,
                m.least * 1e6, m.gflops(), m.kv_gbs());
  }
  return kPassed;
}

}  // namespace octavo::cli
