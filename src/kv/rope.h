#pragma once

#include "octavo/append.h"

namespace octavo::kv {

/// Turns the head x [d] in place by the row of the table at `position`, in fp32.
void rotate_head(const Rope& rope, std::int64_t position, float* x);

}  // namespace octavo::kv
