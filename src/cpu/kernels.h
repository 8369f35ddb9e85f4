#pragma once

#include "core/kernel.h"

namespace octavo {

KernelInfo cpu_portable();   // portable.cpp
KernelInfo cpu_reference();  // reference.cpp

/// Multiplications and additions of a problem: (d + dv) for each visible pair of query and key.
double multiply_adds(const Problem& problem);

}  // namespace octavo
