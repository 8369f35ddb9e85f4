#pragma once

#include "core/kernel.h"
#include "cuda/kernels/common/params.h"

namespace octavo::cuda {

/// The run in the form that kernels read. `split` is the problem's; 0 where it leaves the choice.
AttentionParams attention_params(const StreamCall& call);

}  // namespace octavo::cuda
