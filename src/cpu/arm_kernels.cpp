// The kernels on Advanced SIMD, each with what it needs of a processor. Compiled for any.
#include "cpu/arithmetic.h"
#include "cpu/isa.h"
#include "cpu/kernels.h"
#include "cpu/walk.h"

namespace octavo {
namespace {

const TileMath& neon_bf16() { return kNeonBf16Math; }
const TileMath& neon() { return kNeonMath; }

}  // namespace

KernelInfo cpu_neon_bf16() {
  const auto supports = [](const Problem& problem, const Device&) {
    Support support;
    support.require(has_neon_bf16(), "needs FEAT_BF16, which this processor lacks");
    require_attendable(problem, neon_bf16(), support);
    return support;
  };
  return attend_kernel<neon_bf16>("cpu_neon_bf16", supports, DType::bf16);
}

KernelInfo cpu_neon() {
  const auto supports = [](const Problem& problem, const Device&) {
    Support support;
    require_attendable(problem, neon(), support);
    return support;
  };
  return attend_kernel<neon>("cpu_neon", supports);
}

}  // namespace octavo
