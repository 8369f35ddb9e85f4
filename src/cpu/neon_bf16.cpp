// Products of pairs of bf16 in FEAT_BF16.
#include "cpu/isa.h"
#include "cpu/kernels.h"
#include "cpu/vector_math.h"
#include "cpu/walk.h"

namespace octavo {
namespace {

const TileMath& math() {
  static constexpr TileMath kMath = make_math<Bf16Pairs, 128>(30000);
  return kMath;
}

Support supports(const Problem& problem, const Device&) {
  Support support;
  support.require(has_neon_bf16(), "needs FEAT_BF16, which this processor lacks");
  require_attendable(problem, math(), support);
  return support;
}

}  // namespace

KernelInfo cpu_neon_bf16() { return attend_kernel<math>("cpu_neon_bf16", supports, DType::bf16); }

}  // namespace octavo
