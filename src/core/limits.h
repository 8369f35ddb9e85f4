#pragma once

#include <cstdint>

namespace octavo {

inline constexpr std::int64_t kMaxHeads = 65536;
inline constexpr std::int64_t kMaxHeadDim = 1024;
inline constexpr std::int64_t kMaxPageSize = 1 << 20;
inline constexpr std::int64_t kMaxBatch = 1 << 20;
inline constexpr std::int64_t kMaxTokens = 0x7fffffff;  // lengths are int32 at run time

}  // namespace octavo
