#include <algorithm>
#include <cstdio>

#include "bench.h"
#include "core/call.h"
#include "core/text.h"
#include "core/work.h"
#include "gpu_timer.h"
#include "verify/case.h"
#include "verify/device_copy.h"

namespace octavo::cli {
namespace {

/// What one problem took.
struct Times {
  std::string kernel;
  std::size_t runs = 0;
  double median = 0;  ///< seconds, from cold caches
  double least = 0;
  double graph = 0;  ///< seconds of one of many in a graph
  double host = 0;   ///< seconds of the host in a call
  Work work;

  double gflops(double seconds) const { return 1e-9 * work.flops / seconds; }
  double kv_gbs(double seconds) const { return 1e-9 * work.kv_bytes / seconds; }
};

/// Counted from the masks alone: every key is taken for seen where bits decide.
Work work_of(const Problem& p) {
  double tokens = 0;
  for (std::int64_t r = 0; r < p.batch(); ++r) {
    if (p.q_len[r] == 0) continue;
    const std::int64_t last = p.kv_len[r] - 1;
    const KeyRange first = visible_keys(p.mask, p.kv_len[r] - p.q_len[r], p.kv_len[r]);
    tokens += static_cast<double>(visible_keys(p.mask, last, p.kv_len[r]).end - first.begin);
  }
  const auto bytes = static_cast<double>((p.d + p.dv) * p.hkv) * static_cast<double>(size_of(p.kv));
  return {.flops = 2 * multiply_adds(p), .kv_bytes = tokens * bytes};
}

Times time_problem(const Problem& problem, const Options& options) {
  const Device device = Device::parse(options.device);
  const Plan plan = select(problem, device, options.kernel).plan();
  verify::Case c(problem, options.seed.value_or(0), verify::gpu_workspace(plan),
                 verify::Values::timed);
  const verify::DeviceCopy copy(c, device);
  GpuTimer timer(device);
  const auto enqueue = [&](Stream stream) { plan.run(copy.arguments(), stream); };
  const std::vector<double> times = timer.cold_times(enqueue);
  return {.kernel = std::string(plan.kernel()),
          .runs = times.size(),
          .median = times[times.size() / 2],
          .least = times.front(),
          .graph = timer.graph_time(enqueue),
          .host = timer.host_time(enqueue),
          .work = work_of(problem)};
}

std::string json_fields(const Times& t) {
  return concat(
      "\"kernel\":", quoted(t.kernel), ",\"runs\":", t.runs, ",\"us\":", number(t.median * 1e6),
      ",\"least_us\":", number(t.least * 1e6), ",\"graph_us\":", number(t.graph * 1e6),
      ",\"host_us\":", number(t.host * 1e6), ",\"gflops\":", number(t.gflops(t.median)),
      ",\"graph_gflops\":", number(t.gflops(t.graph)), ",\"kv_gbs\":", number(t.kv_gbs(t.median)),
      ",\"graph_kv_gbs\":", number(t.kv_gbs(t.graph)));
}

void print_head(std::size_t width) {
  std::printf("%-*s  %-16s %10s %10s %8s %12s %10s\n", static_cast<int>(width), "case", "kernel",
              "us", "graph_us", "host_us", "GFLOP/s", "KV GB/s");
}

void print_row(const std::string& name, std::size_t width, const Times& t) {
  std::printf("%-*s  %-16s %10.2f %10.2f %8.2f %12.1f %10.1f\n", static_cast<int>(width),
              name.c_str(), t.kernel.c_str(), t.median * 1e6, t.graph * 1e6, t.host * 1e6,
              t.gflops(t.median), t.kv_gbs(t.median));
  std::fflush(stdout);
}

}  // namespace

int run_bench_gpu(const Options& options) {
  std::vector<NamedProblem> cases;
  if (options.cases.empty()) {
    cases.push_back({"problem", Problem::parse(options.problem)});
  } else {
    cases = pick_cases(options);
  }
  std::size_t width = 0;
  for (const NamedProblem& c : cases) width = std::max(width, c.name.size());
  if (!options.json) print_head(width);
  std::string json;
  for (const NamedProblem& c : cases) {
    json += concat(json.empty() ? "" : ",", "{\"name\":", quoted(c.name),
                   ",\"problem\":", quoted(c.problem.to_string()));
    try {
      const Times times = time_problem(c.problem, options);
      json += concat(",", json_fields(times), "}");
      if (!options.json) print_row(c.name, width, times);
    } catch (const Error& error) {
      if (error.code() != ErrorCode::unsupported || cases.size() == 1) throw;
      json += concat(",\"refused\":", quoted(error.what()), "}");
      if (!options.json) std::printf("%-*s  refused\n", static_cast<int>(width), c.name.c_str());
    }
  }
  if (options.json) {
    std::printf("{\"device\":%s,\"name\":%s,\"cases\":[%s]}\n", quoted(options.device).c_str(),
                quoted(Device::parse(options.device).name).c_str(), json.c_str());
  }
  return kPassed;
}

}  // namespace octavo::cli
