#pragma once

#include <cstdint>
#include <span>

#include "octavo/arguments.h"

namespace octavo {

/// The longest `prefix` that a problem may have for these requests: tokens in leading pages that
/// are the same for all that have queries, as far as no query comes before their last token. 0 if
/// they share none. A table in host memory; throws Error(invalid_argument) for one that is too
/// small.
std::int64_t common_prefix(const PageTable& page_table, std::span<const std::int32_t> q_lens,
                           std::span<const std::int32_t> kv_lens, std::int64_t page_size);

}  // namespace octavo
