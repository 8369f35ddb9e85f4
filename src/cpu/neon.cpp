// Fused multiply-adds in Advanced SIMD, on floats: other dtypes are widened as they are loaded.
#include "cpu/kernels.h"
#include "cpu/vector_math.h"
#include "cpu/walk.h"

namespace octavo {
namespace {

const TileMath& math() {
  static constexpr TileMath kMath = make_math<Floats, 64>(15000);
  return kMath;
}

Support supports(const Problem& problem, const Device&) {
  Support support;
  require_attendable(problem, math(), support);
  return support;
}

}  // namespace

KernelInfo cpu_neon() { return attend_kernel<math>("cpu_neon", supports); }

}  // namespace octavo
