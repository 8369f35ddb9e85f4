// The kernels on x86's vectors and tiles, each with what it needs of a processor. Compiled for any.
#include "cpu/arithmetic.h"
#include "cpu/isa.h"
#include "cpu/kernels.h"
#include "cpu/walk.h"

namespace octavo {
namespace {

const TileMath& amx_bf16() { return kAmxBf16Math; }
const TileMath& avx512() { return kAvx512Math; }
const TileMath& avx2() { return kAvx2Math; }

/// AMD's processors do as many vdpbf16ps as fused multiply-adds; Intel's without AMX a quarter.
const TileMath& avx512_bf16() { return is_amd() ? kAvx512Bf16Math : kAvx512SlowBf16Math; }

Support needs(bool has, const char* what, const Problem& problem, const TileMath& math) {
  Support support;
  support.require(has, "needs ", what, ", which this processor lacks");
  require_attendable(problem, math, support);
  return support;
}

}  // namespace

KernelInfo cpu_amx_bf16() {
  const auto supports = [](const Problem& problem, const Device&) {
    return needs(may_use_tiles(), "AMX-BF16 and AVX512_BF16", problem, amx_bf16());
  };
  return attend_kernel<amx_bf16>("cpu_amx_bf16", supports, DType::bf16);
}

KernelInfo cpu_avx512_bf16() {
  const auto supports = [](const Problem& problem, const Device&) {
    return needs(has_avx512_bf16(), "AVX512_BF16", problem, avx512_bf16());
  };
  return attend_kernel<avx512_bf16>("cpu_avx512_bf16", supports, DType::bf16);
}

KernelInfo cpu_avx512() {
  const auto supports = [](const Problem& problem, const Device&) {
    return needs(has_avx512(), "AVX-512 F, BW, DQ and VL", problem, avx512());
  };
  return attend_kernel<avx512>("cpu_avx512", supports);
}

KernelInfo cpu_avx2() {
  const auto supports = [](const Problem& problem, const Device&) {
    return needs(has_avx2(), "AVX2, FMA and F16C", problem, avx2());
  };
  return attend_kernel<avx2>("cpu_avx2", supports);
}

}  // namespace octavo
