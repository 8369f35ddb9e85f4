#pragma once

#include "tiled/params.h"

namespace octavo::cuda {

struct Quotient {
  int32_t quotient;
  int32_t remainder;
};

/// `value` is not negative.
__device__ inline Quotient divide(int32_t value, const Divisor& by) {
  const unsigned high = __umulhi(static_cast<unsigned>(value), by.magic) >> by.shift;
  const int32_t quotient = by.magic == 0 ? value : static_cast<int32_t>(high);
  return {quotient, value - quotient * by.value};
}

}  // namespace octavo::cuda
