#pragma once

#include <memory>

#include "octavo/c.h"
#include "octavo/kv_cache.h"
#include "octavo/selection.h"

namespace octavo::capi {

// Handles are numbers that are never used twice, so any value can be looked up safely. What a
// handle leads to lives on while a caller of `find_` holds it. `find_` and `remove_` throw
// Error(invalid_argument) for a handle that is null, was removed or never was.

octavo_plan* add_plan(Plan plan);
std::shared_ptr<const Plan> find_plan(const octavo_plan* handle);
void remove_plan(const octavo_plan* handle);

octavo_kv_cache* add_kv_cache(KvCache cache);
std::shared_ptr<KvCache> find_kv_cache(const octavo_kv_cache* handle);
void remove_kv_cache(const octavo_kv_cache* handle);

}  // namespace octavo::capi
