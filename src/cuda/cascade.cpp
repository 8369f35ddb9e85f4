// Computes the prefix that requests share once for all of them. Made of the other kernels and of
// merge_states; the device takes the batch apart, because only it reads lengths.
#include "core/cascade.h"

#include <algorithm>
#include <array>

#include "cuda/function.h"
#include "cuda/kernels.h"
#include "cuda/kernels/cascade/params.h"
#include "cuda/merge_states.h"

namespace octavo::cuda {
namespace {

constexpr int kOldestCapability = 80;
// Two launches more, and that the parts wait for each other: measured on an H100.
constexpr double kStepsUs = 35;
constexpr double kMemoryShare = 0.7;
constexpr std::size_t kAlignment = 256;  // bytes: of workspaces

struct PartKernel {
  KernelInfo info;
  std::vector<Variant> (*variants)(const Problem&, const Device&);
};

/// Those that compute the parts.
const std::array<PartKernel, 3>& part_kernels() {
  static const std::array<PartKernel, 3> all = {{{sm90(), sm90_variants},
                                                 {portable(), portable_variants},
                                                 {reference(), reference_variants}}};
  return all;
}

struct Choice {
  const PartKernel* kernel = nullptr;
  double cost_us = 0;
};

/// The cheapest that can, as in selection.
Choice choose(const Problem& part, const Device& device) {
  Choice best;
  for (const PartKernel& kernel : part_kernels()) {
    if (!kernel.info.supports(part, device).reasons().empty()) continue;
    const double cost_us = kernel.info.cost_us(part, device);
    if (best.kernel == nullptr || cost_us < best.cost_us) best = {&kernel, cost_us};
  }
  return best;
}

Support supports(const Problem& problem, const Device& device) {
  Support support;
  support.require(device.capability >= kOldestCapability,
                  "needs compute capability 8.0, the device has ", device.capability / 10, ".",
                  device.capability % 10);
  require_cascadable(problem, support);
  return support;
}

double cost_us(const Problem& problem, const Device& device) {
  const Cascade cascade(problem);
  const auto merged = static_cast<double>(3 * problem.total_q() * problem.hq * problem.dv) *
                      static_cast<double>(sizeof(float));
  return choose(cascade.prefix, device).cost_us + choose(cascade.suffix, device).cost_us +
         kStepsUs + merged / (kMemoryShare * device.memory_gbs * 1e3);
}

Variant split_variant() {
  return {.source = "cascade/split.cu", .entry = "octavo_cascade_split", .definitions = {}};
}

/// Of a run, in the workspace: rows, the prefix's length, lengths after it, its pages.
class Lengths {
 public:
  Lengths(const Problem& p, std::byte* memory)
      : data_(reinterpret_cast<std::int32_t*>(memory)),
        requests_(p.batch()),
        pages_(p.prefix / p.page_size) {}
  static std::size_t size(const Problem& p) {
    return static_cast<std::size_t>(2 + p.batch() + p.prefix / p.page_size) * sizeof(std::int32_t);
  }

  std::int32_t* rows() const { return data_; }
  std::int32_t* prefix_len() const { return data_ + 1; }
  std::int32_t* suffix_lens() const { return data_ + 2; }
  std::int32_t* prefix_table() const { return suffix_lens() + requests_; }
  std::int64_t pages() const { return pages_; }

 private:
  std::int32_t* data_;
  std::int64_t requests_, pages_;
};

class CascadeKernel final : public StreamKernel {
 public:
  CascadeKernel(const Problem& problem, const Device& device)
      : cascade_(problem),
        prefix_(choose(cascade_.prefix, device).kernel->info.load(cascade_.prefix, device)),
        suffix_(choose(cascade_.suffix, device).kernel->info.load(cascade_.suffix, device)),
        split_(cuda::load(device, split_variant(), 0)),
        merge_(cuda::load(device, merge_states_variant(), 0)),
        layout_(problem, std::max(prefix_->workspace(), suffix_->workspace())),
        lengths_((layout_.size() + kAlignment - 1) / kAlignment * kAlignment),
        workspace_(lengths_ + Lengths::size(problem)) {}

  std::size_t workspace() const override { return workspace_; }

  void launch(const StreamCall& call) const override {
    const Lengths lengths(call.problem, call.workspace + lengths_);
    split(call, lengths);
    std::byte* const own = call.workspace + layout_.of_kernels();

    Arguments shared = layout_.part(call.arguments, call.workspace, 0, call.rows);
    shared.q_lens = {lengths.rows(), 1};
    shared.kv_lens = {lengths.prefix_len(), 1};
    shared.page_table = {lengths.prefix_table(), 1, lengths.pages(), lengths.pages()};
    shared.sinks = {};
    prefix_->launch({cascade_.prefix, shared, 1, call.rows, own, call.stream});

    Arguments rest = layout_.part(call.arguments, call.workspace, 1, call.rows);
    rest.kv_lens = {lengths.suffix_lens(), static_cast<std::size_t>(call.requests)};
    rest.page_table.data += lengths.pages();
    rest.page_table.columns -= lengths.pages();
    suffix_->launch({cascade_.suffix, rest, call.requests, call.rows, own, call.stream});

    launch_merge(merge_, layout_.merge(call.arguments, call.workspace, call.rows), lengths.rows(),
                 call.stream);
  }

 private:
  void split(const StreamCall& call, const Lengths& lengths) const {
    const Arguments& a = call.arguments;
    CascadeParams p{};
    p.q_lens = a.q_lens.data();
    p.kv_lens = a.kv_lens.data();
    p.page_table = a.page_table.data;
    p.page_table_stride = a.page_table.stride;
    p.requests = static_cast<std::int32_t>(call.requests);
    p.prefix = static_cast<std::int32_t>(call.problem.prefix);
    p.prefix_pages = static_cast<std::int32_t>(lengths.pages());
    p.rows = lengths.rows();
    p.prefix_len = lengths.prefix_len();
    p.suffix_lens = lengths.suffix_lens();
    p.prefix_table = lengths.prefix_table();
    split_.launch({}, kWarpThreads, call.stream, &p);
  }

  Cascade cascade_;
  std::shared_ptr<const StreamKernel> prefix_, suffix_;
  Function split_, merge_;
  CascadeWorkspace layout_;
  std::size_t lengths_, workspace_;
};

std::shared_ptr<const StreamKernel> load(const Problem& problem, const Device& device) {
  return std::make_shared<CascadeKernel>(problem, device);
}

}  // namespace

std::vector<Variant> cascade_variants(const Problem& problem, const Device& device) {
  const Cascade cascade(problem);
  std::vector<Variant> all = {split_variant(), merge_states_variant()};
  for (const Problem& part : {cascade.prefix, cascade.suffix}) {
    for (Variant& variant : choose(part, device).kernel->variants(part, device)) {
      all.push_back(std::move(variant));
    }
  }
  return all;
}

KernelInfo cascade() {
  return {.name = "cuda_cascade",
          .supports = supports,
          .cost_us = cost_us,
          .weights = DType::bf16,
          .load = load};
}

}  // namespace octavo::cuda
