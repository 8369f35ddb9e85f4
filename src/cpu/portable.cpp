// For any architecture: what compilers make of vectors, see tile_math_body.h.
#include "cpu/kernels.h"
#include "cpu/walk.h"

namespace octavo {
namespace {

Support supports(const Problem& problem, const Device&) {
  Support support;
  require_head_dims(problem, support);
  return support;
}

double cost_us(const Problem& problem, const Device& device) {
  return attend_cost_us(problem, device, portable_math());
}

void launch(const Call& call, Executor& executor) { attend(call, executor, portable_math()); }

}  // namespace

KernelInfo cpu_portable() { return {"cpu_portable", supports, cost_us, attend_workspace, launch}; }

}  // namespace octavo
