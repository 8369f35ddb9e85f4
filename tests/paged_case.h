#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "octavo/octavo.h"

namespace octavo::tests {

/// Buffers for a problem `paged pool=split order=nhd` in f32 or bf16, filled from a seed. Pages are
/// handed out in a shuffled order; outputs hold kPoison.
struct PagedCase {
  static constexpr std::byte kPoison{0xa5};

  PagedCase(const Problem& problem, std::uint64_t seed);

  /// Views of everything. They stay valid while the case lives and does not move.
  Arguments arguments();
  /// Views of query rows [first_row, first_row + q_count) of request r alone, with kv_count keys.
  /// The lengths are kept in `one_q_len` and `one_kv_len`.
  Arguments slice(std::int64_t r, std::int64_t first_row, std::int64_t q_count,
                  std::int64_t kv_count);
  void poison();
  bool poisoned() const;
  std::size_t out_row_bytes() const;

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
  std::int32_t one_q_len = 0, one_kv_len = 0;
};

}  // namespace octavo::tests
