#pragma once

#include "core/kernel.h"

namespace octavo {

KernelInfo cpu_amx_bf16();
KernelInfo cpu_avx512_bf16();
KernelInfo cpu_avx512();
KernelInfo cpu_avx2();
KernelInfo cpu_neon_bf16();
KernelInfo cpu_neon();
KernelInfo cpu_portable();
KernelInfo cpu_reference();

/// About how many pairs of a query token and a key it sees a request has.
double visible_pairs(const Problem& problem, std::int64_t request);

/// Multiplications and additions of a problem: (d + dv) for each visible pair of query and key.
double multiply_adds(const Problem& problem);

}  // namespace octavo
