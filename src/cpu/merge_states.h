#pragma once

#include "octavo/merge_states.h"

namespace octavo {

/// Merges arguments that were checked.
void merge_rows(const MergeArguments& arguments, Executor& executor);

}  // namespace octavo
