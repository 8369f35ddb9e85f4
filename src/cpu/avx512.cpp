// Floats on AVX-512: every dtype is widened as it is loaded.
#include "cpu/avx512_math.h"
#include "cpu/isa.h"
#include "cpu/kernels.h"
#include "cpu/walk.h"

namespace octavo {
namespace {

constexpr TileMath kMath = make_math<false, 64>(45000);

Support supports(const Problem& problem, const Device&) {
  Support support;
  support.require(has_avx512(), "needs AVX-512 F, BW, DQ and VL, which this processor lacks");
  require_head_dims(problem, support);
  return support;
}

double cost_us(const Problem& problem, const Device& device) {
  return attend_cost_us(problem, device, kMath);
}

void launch(const Call& call, Executor& executor) { attend(call, executor, kMath); }

}  // namespace

KernelInfo cpu_avx512() { return {"cpu_avx512", supports, cost_us, attend_workspace, launch}; }

}  // namespace octavo
