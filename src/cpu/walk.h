#pragma once

#include "core/kernel.h"
#include "cpu/tile_math.h"

namespace octavo {

/// Bytes that `attend` wants as workspace for any run within the problem's bounds.
std::size_t attend_workspace(const Problem& problem);

/// Online softmax over tiles of keys, on whatever arithmetic: the launch of all CPU kernels but the
/// reference.
void attend(const Call& call, Executor& executor, const TileMath& math);

/// The time of `attend` as predicted: the products, and beside them what each row and each byte of
/// K and V costs a thread. A request's keys and values are loaded once for each block of its rows.
double attend_cost_us(const Problem& problem, const Device& device, const TileMath& math);

/// Whether bf16 holds every value of the dtype.
inline bool fits_bf16(DType dtype) { return dtype == DType::bf16 || is_fp8(dtype); }

/// The head dims that `attend` can do.
void require_head_dims(const Problem& problem, Support& support);

}  // namespace octavo
