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
  static const std::vector<KernelInfo> table = {
    cpu_cascade(),
#if defined(__x86_64__)
    cpu_amx_bf16(),
    cpu_avx512_bf16(),
    cpu_avx512(),
    cpu_avx2(),
#elif defined(__aarch64__)
    cpu_neon_bf16(),
    cpu_neon(),
#endif
    cpu_portable(),
    cpu_reference()
  };
  return table;
}

Device Device::cpu() {
  static const std::string name = processor_name();
  return {"cpu", name, usable_threads()};
}

}  // namespace octavo
