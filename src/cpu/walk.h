#pragma once

#include "core/kernel.h"
#include "cpu/tile_math.h"

namespace octavo {

/// Bytes that `attend` wants as workspace for any run within the problem's bounds.
std::size_t attend_workspace(const Problem& problem);

/// Online softmax over tiles of keys, on whatever arithmetic.
void attend(const Call& call, Executor& executor, const TileMath& math);

/// The time of `attend` as predicted: the products, and beside them what each row and each byte of
/// K and V costs a thread. A request's keys and values are loaded once for each block of its rows.
double attend_cost_us(const Problem& problem, const Device& device, const TileMath& math);

/// What `attend` asks of a problem: the head dims and, where scratch holds bf16, a Q, K and V that
/// bf16 holds exactly.
void require_attendable(const Problem& problem, const TileMath& math, Support& support);

/// The row of the kernel that is `attend` on some arithmetic.
template <const TileMath& (*math)()>
KernelInfo attend_kernel(std::string_view name, Support (*supports)(const Problem&, const Device&),
                         DType weights = DType::f32) {
  return {name,
          supports,
          [](const Problem& p, const Device& device) { return attend_cost_us(p, device, math()); },
          attend_workspace,
          [](const Call& call, Executor& executor) { attend(call, executor, math()); },
          weights};
}

}  // namespace octavo
