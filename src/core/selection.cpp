#include "octavo/selection.h"

#include <charconv>
#include <cstdio>
#include <cstdlib>
#include <iomanip>
#include <memory>
#include <new>
#include <sstream>

#include "core/arguments.h"
#include "core/kernel.h"
#include "cpu/table.h"
#include "cuda/table.h"
#include "octavo/error.h"

namespace octavo {
namespace {

constexpr std::size_t kWorkspaceAlignment = 64;  // bytes: a cache line, and the widest vector

std::string_view environment(const char* name) {
  const char* value = std::getenv(name);
  return value ? value : "";
}

std::string join_names(const std::vector<KernelInfo>& table) {
  std::string text;
  for (const KernelInfo& kernel : table) text += concat(text.empty() ? "" : ", ", kernel.name);
  return text;
}

const std::vector<KernelInfo>& table_of(const Device& device) {
  return device.is_cpu() ? cpu_kernels() : cuda::kernels();
}

/// What a kernel's cost is asked for. A row of an invariant problem has the same bits whatever the
/// lengths around it, so its kernel may not depend on them either.
Problem costed(const Problem& problem) {
  Problem nominal = problem;
  if (problem.invariant) nominal.q_len = nominal.kv_len = {1024};
  return nominal;
}

}  // namespace

Device Device::parse(std::string_view id) {
  constexpr std::string_view kCuda = "cuda:";
  if (id == "cpu") return cpu();
  if (id.starts_with(kCuda)) {
    const char* end = id.data() + id.size();
    int ordinal = 0;
    const auto [stop, error] = std::from_chars(id.data() + kCuda.size(), end, ordinal);
    if (error == std::errc() && stop == end && ordinal >= 0) return cuda::describe(ordinal);
  }
  throw Error(ErrorCode::unavailable,
              concat("device '", printable(id), "': must be cpu or cuda:N, with N from 0"));
}

std::string Device::to_string() const {
  if (is_cpu()) return concat(name, ", ", threads, " threads");
  return concat(name, ", compute capability ", capability / 10, ".", capability % 10, ", ",
                multiprocessors, " multiprocessors");
}

int gpu_count() { return cuda::device_count(); }

void wait(const Device& device, Stream stream) {
  if (!device.is_cpu()) cuda::wait(device.ordinal, stream.handle);
}

Selection select_from(const std::vector<KernelInfo>& table, const Problem& problem,
                      const Device& device, std::string_view forced) {
  validate(problem);
  Selection selection;
  selection.problem_ = std::make_shared<const Problem>(problem);
  selection.device_ = device;
  selection.forced_ = !forced.empty();
  const Problem to_cost = costed(problem);
  bool found = false;
  bool known = forced.empty();
  std::string refusals;
  for (std::size_t i = 0; i < table.size(); ++i) {
    Candidate candidate{&table[i], table[i].supports(problem, device).reasons(), 0};
    const bool wanted = forced.empty() || table[i].name == forced;
    known = known || wanted;
    if (candidate.reasons.empty()) {
      candidate.cost_us = table[i].cost_us(to_cost, device);
      if (wanted &&
          (!found || candidate.cost_us < selection.candidates_[selection.winner_].cost_us)) {
        selection.winner_ = i;
        found = true;
      }
    } else if (wanted) {
      for (const std::string& reason : candidate.reasons) {
        refusals += concat("\n  ", table[i].name, ": ", reason);
      }
    }
    selection.candidates_.push_back(std::move(candidate));
  }
  if (!known) {
    throw Error(ErrorCode::unsupported, concat("no kernel '", printable(forced), "' on ", device.id,
                                               ": it has ", join_names(table)));
  }
  if (!found) {
    throw Error(ErrorCode::unsupported, concat(forced.empty() ? "no kernel" : "the forced kernel",
                                               " cannot compute ", problem.to_string(), refusals));
  }
  return selection;
}

Selection select(const Problem& problem, const Device& device, std::string_view kernel) {
  std::string_view forced = kernel.empty() ? environment("OCTAVO_KERNEL") : kernel;
  Selection selection = select_from(table_of(device), problem, device, forced);
  if (environment("OCTAVO_LOG") == "selection") {
    std::fputs(selection.to_string().c_str(), stderr);
  }
  return selection;
}

std::vector<std::string> kernel_names(const Device& device) {
  std::vector<std::string> names;
  for (const KernelInfo& kernel : table_of(device)) names.emplace_back(kernel.name);
  return names;
}

std::string_view Selection::kernel() const { return candidates_[winner_].kernel->name; }

std::string Selection::to_string() const {
  std::ostringstream text;
  text << "problem: " << problem_->to_string() << "\ndevice:  " << device_.id << " ("
       << device_.to_string() << ")\n"
       << std::fixed << std::setprecision(1);
  for (std::size_t i = 0; i < candidates_.size(); ++i) {
    const Candidate& candidate = candidates_[i];
    text << (i == winner_ ? "* " : "  ") << candidate.kernel->name << ": ";
    if (candidate.reasons.empty()) text << "can, cost " << candidate.cost_us << " us";
    for (std::size_t r = 0; r < candidate.reasons.size(); ++r) {
      text << (r ? "; " : "cannot: ") << candidate.reasons[r];
    }
    if (i == winner_) text << (forced_ ? "  <- forced" : "  <- selected");
    text << "\n";
  }
  return text.str();
}

Plan Selection::plan() const {
  Plan plan;
  plan.problem_ = problem_;
  plan.device_ = device_;
  plan.kernel_ = candidates_[winner_].kernel;
  if (plan.kernel_->load != nullptr) plan.code_ = plan.kernel_->load(*problem_, device_);
  return plan;
}

std::string_view Plan::kernel() const { return kernel_->name; }
std::size_t Plan::workspace_size() const {
  return code_ ? code_->workspace() : kernel_->workspace(*problem_);
}
DType Plan::weights() const {
  const auto either_is = [&](DType dtype) { return problem_->q == dtype || problem_->kv == dtype; };
  if (kernel_->weights == DType::f32 || either_is(DType::f32)) return DType::f32;
  if (either_is(DType::f16)) return device_.is_cpu() ? DType::f32 : DType::f16;
  return kernel_->weights;
}

void Plan::run(const Arguments& arguments, Executor& executor) const {
  require_argument(!code_, "an executor is given: the plan runs on ", device_.id,
                   ", which has streams");
  const std::size_t needed = workspace_size();
  const auto free = [](std::byte* memory) {
    ::operator delete[](memory, std::align_val_t{kWorkspaceAlignment});
  };
  std::unique_ptr<std::byte[], decltype(free)> own(nullptr, free);
  std::byte* workspace = arguments.workspace.data();
  if (arguments.workspace.empty()) {
    own.reset(new (std::align_val_t{kWorkspaceAlignment}) std::byte[needed]);
    workspace = own.get();
  } else {
    require_argument(arguments.workspace.size() >= needed, "workspace has ",
                     arguments.workspace.size(), " bytes: the plan needs ", needed);
    require_argument(workspace != nullptr &&
                         reinterpret_cast<std::uintptr_t>(workspace) % kWorkspaceAlignment == 0,
                     "workspace is a null pointer or not aligned to ", kWorkspaceAlignment,
                     " bytes");
  }
  kernel_->launch(make_call(*problem_, arguments, workspace), executor);
}

void Plan::run(const Arguments& arguments, Stream stream) const {
  require_argument(code_ != nullptr, "a stream is given: the plan runs on ", device_.id,
                   ", which has none");
  const StreamCall call = make_stream_call(*problem_, arguments, code_->workspace(), stream.handle);
  cuda::run(device_, *code_, call);
}

void Plan::run(const Arguments& arguments) const {
  if (code_) {
    run(arguments, Stream{});
  } else {
    run(arguments, default_executor());
  }
}

}  // namespace octavo
