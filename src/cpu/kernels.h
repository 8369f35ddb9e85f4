#pragma once

#include "core/kernel.h"
#include "core/work.h"

namespace octavo {

KernelInfo cpu_cascade();
KernelInfo cpu_amx_bf16();
KernelInfo cpu_avx512_bf16();
KernelInfo cpu_avx512();
KernelInfo cpu_avx2();
KernelInfo cpu_neon_bf16();
KernelInfo cpu_neon();
KernelInfo cpu_portable();
KernelInfo cpu_reference();

}  // namespace octavo
