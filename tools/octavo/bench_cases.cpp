#include <algorithm>
#include <cstdio>
#include <exception>
#include <fstream>
#include <string_view>
#include <vector>

#include "bench.h"
#include "core/text.h"

namespace octavo::cli {
namespace {

std::string_view trim(std::string_view text) {
  constexpr std::string_view kSpace = " \t\r";
  const std::size_t first = text.find_first_not_of(kSpace);
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(kSpace) - first + 1);
}

/// Lines of `name | problem`; # starts a comment.
std::vector<NamedProblem> read_cases(const std::string& file) {
  std::ifstream stream(file);
  if (!stream) throw UsageError{"--cases " + file + ": cannot be read"};
  std::vector<NamedProblem> cases;
  int number = 0;
  for (std::string text; std::getline(stream, text);) {
    ++number;
    const std::string_view line = trim(std::string_view(text).substr(0, text.find('#')));
    if (line.empty()) continue;
    const auto fail = [&](ErrorCode code, const std::string& why) {
      throw Error(code, concat(file, ":", number, ": ", why));
    };
    const std::size_t bar = line.find('|');
    const std::string name(trim(line.substr(0, bar)));
    if (bar == std::string_view::npos || name.empty()) {
      fail(ErrorCode::invalid_problem, "must be `name | problem`");
    }
    if (std::any_of(cases.begin(), cases.end(), [&](auto& c) { return c.name == name; })) {
      fail(ErrorCode::invalid_problem, "a second case of this name");
    }
    try {
      cases.push_back({name, Problem::parse(line.substr(bar + 1))});
      validate(cases.back().problem);
    } catch (const Error& error) {
      fail(error.code(), error.what());
    }
  }
  return cases;
}

void print_row(const NamedProblem& c, int width, const Measurement& m, const Floor& floor) {
  std::printf("%-*s  %-18s %11.1f  %8.1f %-7s  %6.1f %%\n", width, c.name.c_str(), m.kernel.c_str(),
              m.median * 1e6, floor.memory ? m.kv_gbs() : m.gflops(),
              floor.memory ? "GB/s" : "GFLOP/s", 100 * floor.seconds / m.median);
  std::fflush(stdout);
}

}  // namespace

std::vector<NamedProblem> pick_cases(const Options& options) {
  std::vector<NamedProblem> cases = read_cases(options.cases);
  std::erase_if(cases, [&](auto& c) { return c.name.find(options.match) == std::string::npos; });
  if (cases.empty()) throw UsageError{"--cases " + options.cases + ": no case matches"};
  return cases;
}

int run_bench_cases(const Options& options) {
  const std::vector<NamedProblem> cases = pick_cases(options);
  std::size_t longest = 0;
  for (const NamedProblem& c : cases) longest = std::max(longest, c.name.size());
  const int width = static_cast<int>(longest);
  const Limits limits = measure_limits(default_executor().concurrency());
  if (!options.json) {
    std::printf("%s\n%-*s  %-18s %11s  %16s  %8s\n", to_text(limits).c_str(), width, "case",
                "kernel", "us", "rate", "of limit");
  }
  std::string json;
  std::exception_ptr refusal;
  bool ran = false;
  for (const NamedProblem& c : cases) {
    json += concat(json.empty() ? "" : ",", "{\"name\":", quoted(c.name),
                   ",\"problem\":", quoted(c.problem.to_string()));
    try {
      const Measurement m = measure(c.problem, options);
      const Floor floor = floor_of(limits, c.problem, m.work);
      ran = true;
      json += concat(",", json_fields(m), ",\"floor_us\":", number(floor.seconds * 1e6),
                     ",\"bound\":", quoted(floor.memory ? "memory" : "compute"),
                     ",\"share\":", number(floor.seconds / m.median), "}");
      if (!options.json) print_row(c, width, m, floor);
    } catch (const Error& error) {
      if (error.code() != ErrorCode::unsupported) throw;
      if (!refusal) refusal = std::current_exception();
      json += concat(",\"refused\":", quoted(error.what()), "}");
      if (!options.json) std::printf("%-*s  refused\n", width, c.name.c_str());
    }
  }
  if (!ran) std::rethrow_exception(refusal);
  if (options.json) {
    std::printf("{\"device\":%s,\"limits\":%s,\"cases\":[%s]}\n", quoted(options.device).c_str(),
                to_json(limits).c_str(), json.c_str());
  }
  return kPassed;
}

int run_bench_limits(const Options& options) {
  const Limits limits = measure_limits(default_executor().concurrency());
  std::printf("%s", options.json ? (to_json(limits) + "\n").c_str() : to_text(limits).c_str());
  return kPassed;
}

}  // namespace octavo::cli
