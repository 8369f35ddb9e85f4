// Floats on AVX-512: every dtype is widened as it is loaded.
#include "cpu/isa.h"
#include "cpu/kernels.h"
#include "cpu/vector_math.h"
#include "cpu/walk.h"

namespace octavo {
namespace {

const TileMath& math() {
  static constexpr TileMath kMath = make_math<Floats, 128>(45000);
  return kMath;
}

Support supports(const Problem& problem, const Device&) {
  Support support;
  support.require(has_avx512(), "needs AVX-512 F, BW, DQ and VL, which this processor lacks");
  require_attendable(problem, math(), support);
  return support;
}

}  // namespace

KernelInfo cpu_avx512() { return attend_kernel<math>("cpu_avx512", supports); }

}  // namespace octavo
