#include "octavo/prefix.h"

#include <algorithm>

#include "core/arguments.h"
#include "core/limits.h"

namespace octavo {

std::int64_t common_prefix(const PageTable& table, std::span<const std::int32_t> q_lens,
                           std::span<const std::int32_t> kv_lens, std::int64_t page_size) {
  require_argument(page_size >= 1 && page_size <= kMaxPageSize, "page_size=", page_size,
                   ": must be from 1 to ", kMaxPageSize);
  require_argument(q_lens.size() == kv_lens.size(), "kv_lens has ", kv_lens.size(),
                   " values: q_lens has ", q_lens.size());
  require_argument(table.requests >= static_cast<std::int64_t>(q_lens.size()), "page_table has ",
                   table.requests, " rows: q_lens has ", q_lens.size(), " requests");
  const std::int32_t* shared = nullptr;
  std::int64_t pages = table.columns;
  for (std::size_t r = 0; r < q_lens.size(); ++r) {
    if (q_lens[r] <= 0) continue;
    const std::int64_t before = std::int64_t{kv_lens[r]} - q_lens[r] + 1;
    pages = std::min(pages, std::max<std::int64_t>(0, before) / page_size);
    const std::int32_t* own = table.data + static_cast<std::int64_t>(r) * table.stride;
    if (shared == nullptr) shared = own;
    pages = std::mismatch(own, own + pages, shared).first - own;
  }
  return shared == nullptr ? 0 : pages * page_size;
}

}  // namespace octavo
