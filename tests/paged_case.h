#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "octavo/octavo.h"

namespace octavo::tests {

/// Buffers for a problem `paged pool=split order=nhd`, filled from a seed, that tests may change.
/// Pages are handed out from the last; outputs hold kPoison.
struct PagedCase {
  static constexpr std::byte kPoison{0xa5};

  PagedCase(const Problem& problem, std::uint64_t seed);

  /// Views of everything, which stay valid while the case lives and does not move.
  Arguments arguments();
  bool poisoned() const;

  Problem problem;
  std::int64_t pages = 0;
  std::int64_t columns = 0;
  std::vector<std::byte> q;    ///< [total_q, hq, d]
  std::vector<std::byte> k;    ///< [pages, page_size, hkv, d]
  std::vector<std::byte> v;    ///< [pages, page_size, hkv, dv]
  std::vector<std::byte> out;  ///< [total_q, hq, dv]
  std::vector<std::byte> lse;  ///< [total_q, hq] f32
  std::vector<std::int32_t> table;
  std::vector<std::int32_t> q_lens, kv_lens;
};

}  // namespace octavo::tests
