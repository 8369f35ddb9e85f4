// For any architecture: what compilers make of vectors, see tile_math_body.h.
#include "cpu/kernels.h"
#include "cpu/walk.h"

namespace octavo {
namespace {

Support supports(const Problem& problem, const Device&) {
  Support support;
  require_attendable(problem, portable_math(), support);
  return support;
}

}  // namespace

KernelInfo cpu_portable() { return attend_kernel<portable_math>("cpu_portable", supports); }

}  // namespace octavo
