// Fused multiply-adds in AVX2, on floats: other dtypes are widened as they are loaded.
#include "cpu/isa.h"
#include "cpu/kernels.h"
#include "cpu/vector_math.h"
#include "cpu/walk.h"

namespace octavo {
namespace {

const TileMath& math() {
  static constexpr TileMath kMath = make_math<Floats, 64>(40000);
  return kMath;
}

Support supports(const Problem& problem, const Device&) {
  Support support;
  support.require(has_avx2(), "needs AVX2, FMA and F16C, which this processor lacks");
  require_attendable(problem, math(), support);
  return support;
}

}  // namespace

KernelInfo cpu_avx2() { return attend_kernel<math>("cpu_avx2", supports); }

}  // namespace octavo
