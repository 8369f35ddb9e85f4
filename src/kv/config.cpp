#include "kv/config.h"

#include <string_view>

#include "core/arguments.h"
#include "core/limits.h"

namespace octavo::kv {
namespace {

constexpr std::int64_t kMostPages = 0x7fffffff - 1;  // PagePool's ring has one entry more
constexpr std::int64_t kMostLayers = 1 << 16;

void require_range(std::string_view name, std::int64_t value, std::int64_t most) {
  require_argument(value >= 1 && value <= most, name, "=", value, ": must be from 1 to ", most);
}

}  // namespace

const KvCacheConfig& checked(const KvCacheConfig& config) {
  require_range("pages", config.pages, kMostPages);
  require_range("page_size", config.page_size, kMaxPageSize);
  require_range("layers", config.layers, kMostLayers);
  require_range("hkv", config.hkv, kMaxHeads);
  require_range("d", config.d, kMaxHeadDim);
  require_range("dv", config.dv, kMaxHeadDim);
  const Mask& mask = config.mask;
  require_argument(mask.kind != MaskKind::chunked || mask.chunk >= 1, "mask.chunk=", mask.chunk,
                   ": must be at least 1");
  require_argument(mask.kind != MaskKind::window || (mask.left >= -1 && mask.right >= -1),
                   "mask.left=", mask.left, ", mask.right=", mask.right,
                   ": must be at least -1, which is unbounded");
  return config;
}

}  // namespace octavo::kv
