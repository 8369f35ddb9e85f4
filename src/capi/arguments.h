#pragma once

#include <span>
#include <vector>

#include "octavo/arguments.h"
#include "octavo/c.h"
#include "octavo/kv_cache.h"
#include "octavo/merge_states.h"

namespace octavo::capi {

/// The same arguments in C++. Checks only what the C++ form cannot express: the struct's version,
/// ranks, dtypes and negative counts. Throws Error(invalid_argument).
Arguments to_arguments(const octavo_arguments& c);

/// The same of what a merge takes.
MergeArguments to_merge(const octavo_merge_arguments& c);

/// The same of what a cache takes. `tensors` has a view for each of `count` layers.
std::vector<KvView> to_views(const char* name, const octavo_tensor* tensors, std::int64_t count);
KvAppend to_append(const octavo_kv_append& c);
Rope to_rope(const octavo_rope& c);
TensorView<3> to_rows(const char* name, const octavo_tensor& c);

}  // namespace octavo::capi
