#pragma once

#include "octavo/arguments.h"
#include "octavo/c.h"

namespace octavo::capi {

/// The same arguments in C++. Checks only what the C++ form cannot express: the struct's version,
/// ranks, dtypes and negative counts. Throws Error(invalid_argument).
Arguments to_arguments(const octavo_arguments& c);

}  // namespace octavo::capi
