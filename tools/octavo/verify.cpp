#include "verify/verify.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <vector>

#include "command.h"
#include "core/text.h"

namespace octavo::cli {
namespace {

enum class Status { passed, failed, refused };

constexpr const char* kStatusNames[] = {"passed", "FAILED", "refused"};
constexpr const char* kJsonNames[] = {"passed", "failed", "refused"};

struct Outcome {
  std::string kernel;
  Status status = Status::refused;
  double worst = 0;
  std::string why;
};

/// `kernel` may be empty: the selected one.
Outcome try_kernel(const Problem& problem, const Device& device, const std::string& kernel,
                   std::uint64_t seed) {
  Outcome outcome;
  outcome.kernel = kernel;
  std::optional<Plan> plan;
  try {
    const Selection selection = select(problem, device, kernel);
    outcome.kernel = selection.kernel();
    plan = selection.plan();
  } catch (const Error& error) {
    if (error.code() != ErrorCode::unsupported) throw;
    outcome.why = error.what();
    return outcome;
  }
  try {
    const verify::Result result = verify::verify(*plan, seed, default_executor());
    outcome.status = result.passed ? Status::passed : Status::failed;
    outcome.worst = result.worst;
    outcome.why = result.failure;
  } catch (const std::exception& error) {
    outcome.status = Status::failed;
    outcome.why = std::string("the run threw: ") + error.what();
  }
  return outcome;
}

std::vector<std::string> kernels_of(const Options& options, const Device& device) {
  if (options.kernel == "all") return kernel_names(device);
  return {options.kernel};
}

/// A name that no kernel has would otherwise look like one that refuses everything.
void check_name(const Options& options, const Device& device) {
  if (options.kernel.empty() || options.kernel == "all") return;
  const std::vector<std::string> names = kernel_names(device);
  if (std::find(names.begin(), names.end(), options.kernel) != names.end()) return;
  std::string text;
  for (const std::string& name : names) text += (text.empty() ? "" : ", ") + name;
  throw Error(ErrorCode::unsupported,
              "kernel " + options.kernel + " is unknown; " + device.id + " has " + text);
}

std::string paste_line(const Problem& problem, const Options& options, const std::string& kernel,
                       std::uint64_t seed) {
  std::string line = "octavo verify '" + problem.to_string() + "' --kernel " + kernel + " --seed " +
                     std::to_string(seed);
  if (options.device != "cpu") line += " --device " + options.device;
  return line;
}

struct Count {
  std::string kernel;
  std::uint64_t passed = 0, refused = 0, failed = 0;
  double worst = 0;
};

struct KernelFailure {
  Outcome outcome;
  std::string line;
};

Count& count_of(std::vector<Count>& counts, const std::string& kernel) {
  for (Count& count : counts) {
    if (count.kernel == kernel) return count;
  }
  counts.push_back({});
  counts.back().kernel = kernel;
  return counts.back();
}

KernelFailure shrunk(const Problem& problem, const Options& options, const Device& device,
                     const std::string& kernel, std::uint64_t seed) {
  const Problem small = verify::shrink(problem, [&](const Problem& next) {
    return try_kernel(next, device, kernel, seed).status == Status::failed;
  });
  return {try_kernel(small, device, kernel, seed), paste_line(small, options, kernel, seed)};
}

void print_summary(const std::vector<Count>& counts, const std::vector<KernelFailure>& failures) {
  for (const Count& c : counts) {
    std::printf("%-20s %llu passed, %llu refused, %llu failed (worst error %.3g of its bound)\n",
                c.kernel.c_str(), static_cast<unsigned long long>(c.passed),
                static_cast<unsigned long long>(c.refused),
                static_cast<unsigned long long>(c.failed), c.worst);
  }
  for (const KernelFailure& f : failures) {
    std::printf("\n%s\n  %s\n", f.line.c_str(), f.outcome.why.c_str());
  }
}

void print_summary_json(const Options& options, const std::vector<Count>& counts,
                        const std::vector<KernelFailure>& failures, int code) {
  std::string text = "{\"device\":" + json_string(options.device) +
                     ",\"passed\":" + (code == kPassed ? "true" : "false") + ",\"kernels\":[";
  const char* comma = "";
  for (const Count& c : counts) {
    text += comma;
    text += "{\"kernel\":" + json_string(c.kernel) + ",\"passed\":" + std::to_string(c.passed) +
            ",\"refused\":" + std::to_string(c.refused) +
            ",\"failed\":" + std::to_string(c.failed) + ",\"worst\":" + number(c.worst) + "}";
    comma = ",";
  }
  text += "],\"failures\":[";
  comma = "";
  for (const KernelFailure& f : failures) {
    text += comma;
    text += "{\"kernel\":" + json_string(f.outcome.kernel) + ",\"command\":" + json_string(f.line) +
            ",\"failure\":" + json_string(f.outcome.why) + "}";
    comma = ",";
  }
  std::printf("%s]}\n", text.c_str());
}

}  // namespace

int run_verify(const Options& options) {
  const Device device = Device::parse(options.device);
  const Problem problem = Problem::parse(options.problem);
  validate(problem);
  check_name(options, device);
  const std::uint64_t seed = options.seed.value_or(0);

  bool ran = false;
  bool failed = false;
  std::string refusals;
  std::string json;
  for (const std::string& kernel : kernels_of(options, device)) {
    const Outcome o = try_kernel(problem, device, kernel, seed);
    ran |= o.status != Status::refused;
    failed |= o.status == Status::failed;
    if (o.status == Status::refused) refusals += concat(refusals.empty() ? "" : "\n", o.why);
    const int status = static_cast<int>(o.status);
    if (options.json) {
      json += concat(json.empty() ? "" : ",", "{\"kernel\":", json_string(o.kernel),
                     ",\"status\":", json_string(kJsonNames[status]),
                     ",\"worst\":", number(o.worst), ",\"why\":", json_string(o.why), "}");
    } else if (o.status == Status::passed) {
      std::printf("%-20s passed (worst error %.3g of its bound)\n", o.kernel.c_str(), o.worst);
    } else if (options.kernel == "all" || o.status == Status::failed) {
      std::printf("%-20s %s: %s\n", o.kernel.c_str(), kStatusNames[status], o.why.c_str());
    }
  }
  if (!ran) throw Error(ErrorCode::unsupported, refusals);
  if (options.json) {
    std::printf("{\"problem\":%s,\"device\":%s,\"seed\":%llu,\"passed\":%s,\"kernels\":[%s]}\n",
                json_string(problem.to_string()).c_str(), json_string(device.id).c_str(),
                static_cast<unsigned long long>(seed), failed ? "false" : "true", json.c_str());
  }
  return failed ? kWrong : kPassed;
}

int run_verify_random(const Options& options) {
  const Device device = Device::parse(options.device);
  check_name(options, device);
  const std::uint64_t first = options.seed.value_or(0);
  const bool progress = isatty(STDERR_FILENO) != 0;

  std::vector<Problem> problems;
  for (std::uint64_t i = 0; i < *options.random; ++i) problems.push_back(verify::sample(first + i));
  const std::vector<std::string> kernels = kernels_of(options, device);
  for (const std::string& kernel : kernels) verify::load_code(problems, device, kernel);

  std::vector<Count> counts;
  std::vector<KernelFailure> failures;  // the first of each kernel
  for (std::uint64_t i = 0; i < *options.random; ++i) {
    const std::uint64_t seed = first + i;
    const Problem& problem = problems[i];
    for (const std::string& kernel : kernels) {
      const Outcome o = try_kernel(problem, device, kernel, seed);
      Count& count = count_of(counts, o.kernel.empty() ? "(none)" : o.kernel);
      count.worst = std::max(count.worst, o.worst);
      if (o.status == Status::passed) ++count.passed;
      if (o.status == Status::refused) ++count.refused;
      if (o.status == Status::failed && count.failed++ == 0) {
        failures.push_back(shrunk(problem, options, device, o.kernel, seed));
      }
    }
    if (progress) {
      std::fprintf(stderr, "\r%llu / %llu", static_cast<unsigned long long>(i + 1),
                   static_cast<unsigned long long>(*options.random));
    }
  }
  if (progress) std::fprintf(stderr, "\n");

  bool ran = false;
  for (const Count& count : counts) ran |= count.passed + count.failed > 0;
  const int code = !failures.empty() ? kWrong : ran ? kPassed : kRefused;
  if (options.json) {
    print_summary_json(options, counts, failures, code);
  } else {
    print_summary(counts, failures);
    if (!ran) std::fprintf(stderr, "octavo: every problem was refused\n");
  }
  return code;
}

}  // namespace octavo::cli
