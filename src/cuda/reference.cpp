#include <algorithm>
#include <cmath>

#include "cuda/attention_params.h"
#include "cuda/function.h"
#include "cuda/kernels.h"
#include "cuda/kernels/reference/params.h"

namespace octavo::cuda {
namespace {

constexpr int kOldestCapability = 80;
// Measured on an H100, to within a factor of 2 to 3.
constexpr double kLaunchUs = 5;
constexpr double kLoadUs = 0.3;              // a warp waits for each load of 32 keys' elements
constexpr double kMultiplyAddsPerUs = 2000;  // of a multiprocessor full of warps

Support supports(const Problem&, const Device& device) {
  Support s;
  s.require(device.capability >= kOldestCapability, "needs compute capability 8.0, the device has ",
            device.capability / 10, ".", device.capability % 10);
  return s;
}

double cost_us(const Problem& problem, const Device& device) {
  double keys = 0;  // of the average row of the longest request
  for (std::int64_t r = 0; r < problem.batch(); ++r) {
    if (problem.q_len[r] == 0) continue;
    keys = std::max(keys, visible_pairs(problem, r) / static_cast<double>(problem.q_len[r]));
  }
  const double row_us =
      std::ceil(keys / kWarpThreads) * static_cast<double>(problem.d + problem.dv) * kLoadUs;
  const double all_us = multiply_adds(problem) / (kMultiplyAddsPerUs * device.multiprocessors);
  return kLaunchUs + std::max(row_us, all_us);
}

Variant variant() {
  return {.source = "reference/attend.cu", .entry = "octavo_reference", .definitions = {}};
}

class Reference final : public StreamKernel {
 public:
  explicit Reference(const Device& device) : function_(cuda::load(device, variant(), 0)) {}

  std::size_t workspace() const override { return 0; }

  void launch(const StreamCall& call) const override {
    const Problem& p = call.problem;
    const ReferenceParams params{attention_params(call), static_cast<std::int32_t>(p.q),
                                 static_cast<std::int32_t>(p.kv), static_cast<std::int32_t>(p.out)};
    const std::int64_t heads = (p.hq + kReferenceWarps - 1) / kReferenceWarps;
    const Grid grid{static_cast<std::uint32_t>(call.rows), static_cast<std::uint32_t>(heads)};
    function_.launch(grid, kReferenceWarps * kWarpThreads, call.stream, &params);
  }

 private:
  Function function_;
};

std::shared_ptr<const StreamKernel> load(const Problem&, const Device& device) {
  return std::make_shared<Reference>(device);
}

}  // namespace

std::vector<Variant> reference_variants(const Problem&, const Device&) { return {variant()}; }

KernelInfo reference() {
  return {.name = "cuda_reference", .supports = supports, .cost_us = cost_us, .load = load};
}

}  // namespace octavo::cuda
