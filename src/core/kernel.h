#pragma once

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

/// A row of a device's table. `supports` alone decides whether the kernel can compute a problem. A
/// kernel that can compute an invariant problem at some lengths must be able to at all.
struct KernelInfo {
  std::string_view name;
  Support (*supports)(const Problem&, const Device&);
  double (*cost_us)(const Problem&, const Device&);
  std::size_t (*workspace)(const Problem&);  ///< bytes
  void (*launch)(const Call&, Executor&);
  DType weights = DType::f32;  ///< what the weights are rounded to before they multiply V
};

/// `select` over any table: the cheapest kernel that can, the earlier one at equal cost.
Selection select_from(const std::vector<KernelInfo>& table, const Problem& problem,
                      const Device& device, std::string_view forced);

}  // namespace octavo
