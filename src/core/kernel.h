#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "core/call.h"
#include "core/text.h"
#include "octavo/executor.h"
#include "octavo/selection.h"

namespace octavo {

/// A kernel's answer: yes, or the reasons why not.
class Support {
 public:
  template <typename... Parts>
  void require(bool condition, const Parts&... reason) {
    if (!condition) reasons_.push_back(concat(reason...));
  }
  std::vector<std::string> reasons() && { return std::move(reasons_); }

 private:
  std::vector<std::string> reasons_;
};

/// A run on a device with streams, whose lengths and page tables only the device reads.
struct StreamCall {
  const Problem& problem;
  const Arguments& arguments;
  std::int64_t requests;  ///< of this run
  std::int64_t rows;      ///< that its query tokens may have at most
  std::byte* workspace;
  void* stream;
};

/// A kernel whose code is loaded on a device with streams, for one problem. Immutable: threads may
/// share it.
class StreamKernel {
 public:
  virtual ~StreamKernel() = default;
  virtual std::size_t workspace() const = 0;  ///< bytes
  /// Enqueues the run on its stream. Neither allocates nor waits.
  virtual void launch(const StreamCall& call) const = 0;
};

/// A row of a device's table. `supports` alone decides whether the kernel can compute a problem. A
/// kernel that can compute an invariant problem at some lengths must be able to at all.
struct KernelInfo {
  std::string_view name;
  Support (*supports)(const Problem&, const Device&);
  double (*cost_us)(const Problem&, const Device&);
  std::size_t (*workspace)(const Problem&) = nullptr;  ///< bytes
  void (*launch)(const Call&, Executor&) = nullptr;
  DType weights = DType::f32;  ///< what the weights are rounded to before they multiply V
  /// On devices with streams, instead of `workspace` and `launch`.
  std::shared_ptr<const StreamKernel> (*load)(const Problem&, const Device&) = nullptr;
};

/// `select` over any table: the cheapest kernel that can, the earlier one at equal cost.
Selection select_from(const std::vector<KernelInfo>& table, const Problem& problem,
                      const Device& device, std::string_view forced);

}  // namespace octavo
