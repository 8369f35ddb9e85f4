#include "cuda/attention_params.h"
#include "cuda/function.h"
#include "cuda/kernels.h"
#include "cuda/kernels/reference/params.h"

namespace octavo::cuda {
namespace {

constexpr int kWarpThreads = 32;
constexpr int kOldestCapability = 80;
constexpr double kLaunchUs = 5;
// Of one multiprocessor, one lane a key. Too low for the smallest problem: chosen as the last.
constexpr double kMultiplyAddsPerUs = 4000;

Support supports(const Problem&, const Device& device) {
  Support s;
  s.require(device.capability >= kOldestCapability, "needs compute capability 8.0, the device has ",
            device.capability / 10, ".", device.capability % 10);
  return s;
}

double cost_us(const Problem& problem, const Device& device) {
  return kLaunchUs + multiply_adds(problem) / (kMultiplyAddsPerUs * device.multiprocessors);
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
    function_.launch(grid, kReferenceWarps * kWarpThreads, call.stream, &params, sizeof params);
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
