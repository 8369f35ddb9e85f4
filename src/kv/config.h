#pragma once

#include "octavo/kv_cache.h"

namespace octavo::kv {

/// The config, if it makes sense. Throws Error(invalid_argument) with the field, its value and the
/// limit.
const KvCacheConfig& checked(const KvCacheConfig& config);

}  // namespace octavo::kv
