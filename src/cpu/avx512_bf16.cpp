// Products of bf16 pairs on AVX512_BF16: Q, K and V are bf16 or an fp8 type, which bf16 holds
// exactly, and weights are rounded to bf16. Few rows take K and V where they lie, in floats.
#include "cpu/isa.h"
#include "cpu/kernels.h"
#include "cpu/vector_math.h"
#include "cpu/walk.h"

namespace octavo {
namespace {

/// AMD's processors do as many vdpbf16ps as fused multiply-adds; Intel's without AMX a quarter.
const TileMath& math() {
  static constexpr TileMath kFullRate = make_math<Bf16Pairs, 128>(80000);
  static constexpr TileMath kQuarterRate = make_math<Bf16Pairs, 128, 1, Floats>(30000);
  return is_amd() ? kFullRate : kQuarterRate;
}

Support supports(const Problem& problem, const Device&) {
  Support support;
  support.require(has_avx512_bf16(), "needs AVX512_BF16, which this processor lacks");
  require_attendable(problem, math(), support);
  return support;
}

}  // namespace

KernelInfo cpu_avx512_bf16() {
  return attend_kernel<math>("cpu_avx512_bf16", supports, DType::bf16);
}

}  // namespace octavo
