#include <cmath>

#include "core/limits.h"
#include "core/text.h"
#include "octavo/error.h"
#include "octavo/problem.h"

namespace octavo {
namespace {

template <typename... Parts>
void require(bool condition, const Parts&... parts) {
  if (!condition) throw Error(ErrorCode::invalid_problem, concat(parts...));
}

void require_range(std::string_view field, std::int64_t value, std::int64_t low,
                   std::int64_t high) {
  require(value >= low && value <= high, field, "=", value, ": must be from ", low, " to ", high);
}

void validate_layout(const Problem& p) {
  if (p.layout == Layout::paged) {
    require_range("page", p.page_size, 1, kMaxPageSize);
    require(p.pool == Pool::split || p.dv == p.d, "dv=", p.dv, ": must equal d=", p.d,
            " in pool=joint; use pool=split");
    return;
  }
  require(p.order == PageOrder::nhd && p.pool == Pool::joint && p.page_size == 16,
          "order, pool and page: only the layout paged has them");
  if (p.layout == Layout::ragged) return;
  require(p.dv == p.d, "dv=", p.dv, ": must equal d=", p.d,
          " where K and V share one tensor (contiguous, packed)");
  if (p.layout != Layout::packed) return;
  require(p.q == p.kv, "kv=", name(p.kv), ": must equal q=", name(p.q),
          " where Q, K and V share one tensor (packed)");
  for (std::int64_t r = 0; r < p.batch(); ++r) {
    require(p.q_len[r] == p.kv_len[r], "kv_len[", r, "]=", p.kv_len[r], ": must equal q_len[", r,
            "]=", p.q_len[r], " where Q, K and V share one tensor (packed)");
  }
}

void validate_mask(const Mask& mask) {
  if (mask.kind == MaskKind::window) {
    require_range("mask=window left", mask.left, -1, kMaxTokens);
    require_range("mask=window right", mask.right, -1, kMaxTokens);
  }
  if (mask.kind == MaskKind::chunked) require_range("mask=chunked", mask.chunk, 1, kMaxTokens);
}

/// Queries sit at or past the prefix's last token, and so see all of it under a causal mask.
void validate_prefix(const Problem& p) {
  require_range("prefix", p.prefix, 0, kMaxTokens);
  if (p.prefix == 0) return;
  require(p.layout == Layout::paged, "prefix=", p.prefix, ": only the layout paged has one");
  require(p.prefix % p.page_size == 0, "prefix=", p.prefix,
          ": must be a multiple of page=", p.page_size);
  for (std::int64_t r = 0; r < p.batch(); ++r) {
    require(p.q_len[r] == 0 || p.prefix <= p.kv_len[r] - p.q_len[r] + 1, "prefix=", p.prefix,
            ": must be at most ", p.kv_len[r] - p.q_len[r] + 1, ", where q_len[", r,
            "]=", p.q_len[r], " queries of kv_len[", r, "]=", p.kv_len[r], " begin, plus one");
  }
}

void validate_lengths(const Problem& p) {
  require_range("b", p.batch(), 1, kMaxBatch);
  require(p.q_len.size() == p.kv_len.size(), "kv_len has ", p.kv_len.size(),
          " values: must have b=", p.batch());
  for (std::int64_t r = 0; r < p.batch(); ++r) {
    require(p.q_len[r] >= 0 && p.q_len[r] <= kMaxTokens, "q_len[", r, "]=", p.q_len[r],
            ": must be from 0 to ", kMaxTokens);
    require(p.kv_len[r] >= 0 && p.kv_len[r] <= kMaxTokens, "kv_len[", r, "]=", p.kv_len[r],
            ": must be from 0 to ", kMaxTokens);
  }
  require(p.total_q() <= kMaxTokens, "q_len sums to ", p.total_q(), ": must be at most ",
          kMaxTokens);
}

}  // namespace

void validate(const Problem& p) {
  require_range("hq", p.hq, 1, kMaxHeads);
  require_range("hkv", p.hkv, 1, kMaxHeads);
  require(p.hq % p.hkv == 0, "hq=", p.hq, ": must be a multiple of hkv=", p.hkv);
  require_range("d", p.d, 1, kMaxHeadDim);
  require_range("dv", p.dv, 1, kMaxHeadDim);
  require(!p.cap || (std::isfinite(*p.cap) && *p.cap > 0), "cap=", p.cap.value_or(0),
          ": must be finite and above 0");
  require(!p.scale || (std::isfinite(*p.scale) && *p.scale > 0), "scale=", p.scale.value_or(0),
          ": must be finite and above 0");
  require_range("split", p.split, 0, kMaxTokens);
  validate_mask(p.mask);
  validate_lengths(p);
  validate_layout(p);
  validate_prefix(p);
}

}  // namespace octavo
