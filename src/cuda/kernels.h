#pragma once

#include "core/kernel.h"
#include "core/work.h"

namespace octavo::cuda {

KernelInfo portable();
KernelInfo reference();

}  // namespace octavo::cuda
