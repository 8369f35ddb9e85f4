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

double visible_pairs(const Problem& problem, std::int64_t request) {
  const auto q = static_cast<double>(problem.q_len[request]);
  const auto kv = static_cast<double>(problem.kv_len[request]);
  const Mask& mask = problem.mask;
  const double rows = std::min(q, kv);  // those at a position of at least 0
  const double causal = rows * kv - rows * (rows - 1) / 2;
  switch (mask.kind) {
    case MaskKind::none:
    case MaskKind::bits:
      break;
    case MaskKind::causal:
      return causal;
    case MaskKind::window: {
      const double all = mask.right < 0 ? q * kv : std::min(q * kv, causal + q * mask.right);
      return mask.left < 0 ? all
                           : std::min(all, q * (mask.left + 1 + std::max<double>(0, mask.right)));
    }
    case MaskKind::chunked:
      return std::min(causal, rows * (static_cast<double>(mask.chunk) + 1) / 2);
  }
  return q * kv;
}

double multiply_adds(const Problem& problem) {
  double pairs = 0;
  for (std::int64_t r = 0; r < problem.batch(); ++r) pairs += visible_pairs(problem, r);
  return pairs * static_cast<double>(problem.hq * (problem.d + problem.dv));
}

}  // namespace octavo
