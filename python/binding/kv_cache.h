#pragma once

#include <nanobind/nanobind.h>

namespace octavo::python {

/// The class KvCache, and what goes with rotary embeddings.
void bind_kv_cache(nanobind::module_& m);

}  // namespace octavo::python
