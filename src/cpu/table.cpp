#include "cpu/table.h"

#include <sched.h>

#include <fstream>
#include <thread>

#include "cpu/kernels.h"

namespace octavo {
namespace {

std::string processor_name() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    if (line.rfind("model name", 0) == 0) {
      std::size_t colon = line.find(": ");
      return colon == std::string::npos ? line : line.substr(colon + 2);
    }
  }
  return "CPU";
}

int usable_threads() {
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) return CPU_COUNT(&set);
  return static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
}

}  // namespace

const std::vector<KernelInfo>& cpu_kernels() {
  static const std::vector<KernelInfo> table = {cpu_portable(), cpu_reference()};
  return table;
}

Device Device::cpu() {
  static const std::string name = processor_name();
  return {"cpu", name, usable_threads()};
}

double multiply_adds(const Problem& problem) {
  double pairs = 0;
  for (std::int64_t r = 0; r < problem.batch(); ++r) {
    const double q = static_cast<double>(problem.q_len[r]);
    const double kv = static_cast<double>(problem.kv_len[r]);
    const bool half = problem.mask.kind != MaskKind::none && problem.mask.kind != MaskKind::bits;
    pairs += half ? q * std::max(kv / 2, kv - q / 2) : q * kv;
  }
  return pairs * static_cast<double>(problem.hq * (problem.d + problem.dv));
}

}  // namespace octavo
