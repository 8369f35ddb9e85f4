#include <algorithm>
#include <cstdio>
#include <exception>
#include <string_view>
#include <vector>

#include "command.h"
#include "core/kernel.h"

namespace octavo::cli {
namespace {

constexpr std::string_view kHelp = R"(octavo: exact attention over paged KV caches

Which devices are there, with which kernels?
  octavo devices

Which kernel would compute a problem, and why not the others?
  octavo explain paged q=bf16 hq=32 hkv=8 d=128 mask=causal q_len=1 kv_len=4096 b=8

Is a kernel right, on random data?
  octavo verify 'paged q=bf16 hq=8 hkv=2 d=64 mask=causal q_len=8,1 kv_len=9,300'
  octavo verify 'ragged q=f16 hq=4 hkv=4 d=40 mask=window:9,0 sinks q_len=9 kv_len=65' --kernel all
  octavo verify --random 2000 --seed 1 --kernel all

How fast is it?
  octavo bench paged q=bf16 hq=32 hkv=8 d=128 mask=causal q_len=512 kv_len=4096
  octavo bench --cases bench/cases.txt --match decode
  octavo bench --device cuda:0 paged q=bf16 hq=32 hkv=8 d=128 mask=causal q_len=1 kv_len=8192

How fast could it be? What the processor and its memory can do at best, in a few seconds:
  octavo bench --limits

Device code for GPUs, compiled before it is needed: what common problems need, or one problem. For the
GPUs of this machine, or without one for all that Octavo knows
  octavo compile
  octavo compile --arch 90,120 --out octavo-cubins
  octavo compile --arch 90 paged q=bf16 kv=e5m2 hq=32 hkv=8 d=80 mask=causal q_len=1 kv_len=4096

Options
  --device cpu|cuda:N   the device (cpu)
  --kernel NAME|all     a kernel other than the one selected; all: verify only
  --seed N              of the random data, or of the first random problem (0)
  --random N            verify N random problems; a failing one is shrunk and printed
  --cases FILE          bench the problems of a file, lines of "name | problem", and print how near
                        each comes to the CPU's limits
  --match TEXT          of --cases, those with the text in their name
  --limits              measure the limits: products and reads, on one thread and on all
  --arch N,N            of compile: compute capabilities without the dot
  --out FOLDER          of compile: the pack; default: OCTAVO_CUDA_PACK, or beside the library
  --jobs N              of compile: compilers at a time; default: one for each processor
  --json                one JSON object on stdout

Exit codes: 0 passed; 1 wrong results, or code that does not compile; 2 refused, invalid or a bad command line.
)";

constexpr std::string_view code_name(ErrorCode code) {
  switch (code) {
    case ErrorCode::invalid_problem:
      return "invalid_problem";
    case ErrorCode::invalid_argument:
      return "invalid_argument";
    case ErrorCode::unsupported:
      return "unsupported";
    case ErrorCode::unavailable:
      return "unavailable";
    case ErrorCode::device_error:
      return "device_error";
  }
  return "unknown";
}

std::string json_list(const std::vector<std::string>& texts) {
  std::string out;
  for (const std::string& text : texts) out += concat(out.empty() ? "" : ",", quoted(text));
  return concat("[", out, "]");
}

int run_devices(const Options& options) {
  std::vector<Device> devices = {Device::cpu()};
  std::string no_gpu;
  try {
    const int gpus = gpu_count();
    for (int i = 0; i < gpus; ++i) devices.push_back(Device::parse(concat("cuda:", i)));
  } catch (const Error& error) {
    no_gpu = error.what();
  }
  std::string json;
  for (const Device& device : devices) {
    const std::vector<std::string> kernels = kernel_names(device);
    json += concat(json.empty() ? "" : ",", "{\"id\":", quoted(device.id),
                   ",\"name\":", quoted(device.name), ",\"threads\":", device.threads);
    if (!device.is_cpu()) {
      json += concat(",\"capability\":", device.capability,
                     ",\"multiprocessors\":", device.multiprocessors,
                     ",\"memory_gbs\":", number(device.memory_gbs));
    }
    json += concat(",\"kernels\":", json_list(kernels), "}");
    if (options.json) continue;
    std::printf("%s: %s\n", device.id.c_str(), device.to_string().c_str());
    for (const std::string& kernel : kernels) std::printf("  %s\n", kernel.c_str());
  }
  if (options.json) {
    std::printf("{\"devices\":[%s]%s}\n", json.c_str(),
                no_gpu.empty() ? "" : concat(",\"no_gpu\":", quoted(no_gpu)).c_str());
  } else if (!no_gpu.empty()) {
    std::printf("%s\n", no_gpu.c_str());
  }
  return kPassed;
}

int run_explain(const Options& options) {
  const Problem problem = Problem::parse(options.problem);
  const Selection selection = select(problem, Device::parse(options.device), options.kernel);
  if (!options.json) {
    std::string text = selection.to_string();
    if (!text.ends_with('\n')) text += '\n';
    std::fputs(text.c_str(), stdout);
    return kPassed;
  }
  std::string candidates;
  for (const Candidate& candidate : selection.candidates()) {
    candidates +=
        concat(candidates.empty() ? "" : ",", "{\"kernel\":", quoted(candidate.kernel->name));
    candidates += candidate.reasons.empty()
                      ? concat(",\"cost_us\":", number(candidate.cost_us), "}")
                      : concat(",\"reasons\":", json_list(candidate.reasons), "}");
  }
  std::printf("{\"problem\":%s,\"device\":%s,\"kernel\":%s,\"candidates\":[%s]}\n",
              quoted(problem.to_string()).c_str(), quoted(options.device).c_str(),
              quoted(selection.kernel()).c_str(), candidates.c_str());
  return kPassed;
}

int run(const Options& options) {
  if (options.command == "devices") return run_devices(options);
  if (options.command == "explain") return run_explain(options);
  if (options.command == "bench") return run_bench(options);
  if (options.command == "compile") return run_compile(options);
  return options.random ? run_verify_random(options) : run_verify(options);
}

int report(bool json, std::string_view code, const std::string& message) {
  std::fprintf(stderr, "octavo: %s\n", message.c_str());
  if (json) {
    std::printf("{\"error\":{\"code\":%s,\"message\":%s}}\n", quoted(code).c_str(),
                quoted(message).c_str());
  }
  return kRefused;
}

}  // namespace

int run_main(int count, char** words) {
  const bool json =
      std::any_of(words + 1, words + count, [](std::string_view word) { return word == "--json"; });
  try {
    const Options options = parse_options(count, words);
    if (options.help) {
      std::fwrite(kHelp.data(), 1, kHelp.size(), stdout);
      return kPassed;
    }
    return run(options);
  } catch (const UsageError& error) {
    return report(json, "usage", error.message + "; `octavo --help` shows examples");
  } catch (const Error& error) {
    return report(json, code_name(error.code()), error.what());
  } catch (const std::exception& error) {
    return report(json, "internal", error.what());
  }
}

}  // namespace octavo::cli

int main(int count, char** words) { return octavo::cli::run_main(count, words); }
