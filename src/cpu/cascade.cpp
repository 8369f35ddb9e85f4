// Computes the prefix that requests share once for all of them: K and V of it are read once, and
// its rows are enough to pack them for. Made of the other kernels and of merge_states.
#include "core/cascade.h"

#include <algorithm>
#include <cmath>

#include "cpu/kernels.h"
#include "cpu/merge_states.h"
#include "cpu/table.h"

namespace octavo {
namespace {

constexpr double kBytesPerUs = 10000;  // of a thread, as in `attend_cost_us`
constexpr double kPassesUs = 2;        // two passes of the executor more
// Packing a key and its value takes about as long as their use by so many rows. The other kernels'
// costs leave it out, because where they are compared all of them pack, or none.
constexpr double kPackingRows = 16;
constexpr double kRowsOfPacking = 256;  // that share one

/// Rows of the prefix are packed with whatever rows the batch has. An invariant row's bits do not
/// depend on them.
Cascade cascade_of(const Problem& problem) {
  Cascade cascade(problem);
  cascade.prefix.invariant = true;
  return cascade;
}

struct Choice {
  const KernelInfo* kernel = nullptr;
  double cost_us = 0;
};

/// The cheapest kernel of the table, as in selection.
Choice choose(const Problem& part) {
  const Device device = Device::cpu();
  Choice best;
  for (const KernelInfo& kernel : cpu_kernels()) {
    if (!kernel.supports(part, device).reasons().empty()) continue;
    const double cost_us = kernel.cost_us(part, device);
    if (best.kernel == nullptr || cost_us < best.cost_us) best = {&kernel, cost_us};
  }
  return best;
}

Support supports(const Problem& problem, const Device&) {
  Support support;
  require_cascadable(problem, support);
  return support;
}

double packing_share(const Problem& problem) {
  const auto rows = std::max<double>(1, static_cast<double>(problem.total_q() * problem.group()));
  return kPackingRows * std::ceil(rows / kRowsOfPacking) / rows;
}

double cost_us(const Problem& problem, const Device& device) {
  const Cascade cascade = cascade_of(problem);
  const auto merged = static_cast<double>(3 * problem.total_q() * problem.hq * problem.dv) *
                      static_cast<double>(sizeof(float));
  return choose(cascade.prefix).cost_us * (1 + packing_share(problem)) +
         choose(cascade.suffix).cost_us + kPassesUs + merged / (kBytesPerUs * device.threads);
}

CascadeWorkspace workspace_of(const Problem& problem, const Cascade& cascade,
                              const KernelInfo& prefix, const KernelInfo& suffix) {
  return {problem, std::max(prefix.workspace(cascade.prefix), suffix.workspace(cascade.suffix))};
}

std::size_t workspace(const Problem& problem) {
  const Cascade cascade = cascade_of(problem);
  return workspace_of(problem, cascade, *choose(cascade.prefix).kernel,
                      *choose(cascade.suffix).kernel)
      .size();
}

void launch(const Call& call, Executor& executor) {
  const Problem& p = call.problem;
  const auto any =
      std::ranges::find_if(call.requests, [](const Request& r) { return r.q_len > 0; });
  if (any == call.requests.end()) return;
  const std::int64_t rows = call.requests.back().q_begin + call.requests.back().q_len;
  const Cascade cascade = cascade_of(p);
  const KernelInfo& prefix = *choose(cascade.prefix).kernel;
  const KernelInfo& suffix = *choose(cascade.suffix).kernel;
  const CascadeWorkspace layout = workspace_of(p, cascade, prefix, suffix);
  std::byte* const own = call.workspace + layout.of_kernels();

  const Arguments shared = layout.part(call.arguments, call.workspace, 0, rows);
  prefix.launch({cascade.prefix, shared, {{0, rows, 0, p.prefix, any->pages}}, own}, executor);

  const Arguments rest = layout.part(call.arguments, call.workspace, 1, rows);
  Call after{cascade.suffix, rest, call.requests, own};
  for (Request& request : after.requests) {
    request.kv_len = std::max<std::int64_t>(0, request.kv_len - p.prefix);
    request.pages += p.prefix / p.page_size;
  }
  suffix.launch(after, executor);

  merge_rows(layout.merge(call.arguments, call.workspace, rows), executor);
}

}  // namespace

KernelInfo cpu_cascade() {
  return {"cpu_cascade", supports, cost_us, workspace, launch, DType::bf16};
}

}  // namespace octavo
