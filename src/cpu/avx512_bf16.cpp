// Products of bf16 pairs on AVX512_BF16: Q, K and V are bf16 or an fp8 type, which bf16 holds
// exactly, and weights are rounded to bf16. Few rows take K and V where they lie, in floats.
#include "cpu/avx512_math.h"
#include "cpu/isa.h"
#include "cpu/kernels.h"
#include "cpu/walk.h"

namespace octavo {
namespace {

// AMD's processors do as many vdpbf16ps as fused multiply-adds; Intel's without AMX half as many.
constexpr TileMath kFullRate = make_math<true, 128>(80000);
constexpr TileMath kQuarterRate = make_math<true, 128>(30000);

const TileMath& math() { return is_amd() ? kFullRate : kQuarterRate; }

Support supports(const Problem& problem, const Device&) {
  Support support;
  support.require(has_avx512_bf16(), "needs AVX512_BF16, which this processor lacks");
  support.require(fits_bf16(problem.q), "q must be bf16, e4m3 or e5m2, is ", name(problem.q));
  support.require(fits_bf16(problem.kv), "kv must be bf16, e4m3 or e5m2, is ", name(problem.kv));
  require_head_dims(problem, support);
  return support;
}

double cost_us(const Problem& problem, const Device& device) {
  return attend_cost_us(problem, device, math());
}

void launch(const Call& call, Executor& executor) { attend(call, executor, math()); }

}  // namespace

KernelInfo cpu_avx512_bf16() {
  return {"cpu_avx512_bf16", supports, cost_us, attend_workspace, launch, DType::bf16};
}

}  // namespace octavo
