#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "octavo/dtype.h"

namespace octavo {

/// Where keys and values live.
///   paged       pages [pages, page_size, hkv, d] and a page table
///   ragged      K [total_kv, hkv, d] and V [total_kv, hkv, dv], apart
///   contiguous  K and V in one [total_kv, 2, hkv, d]
///   packed      Q, K and V in one [total, hq + 2 hkv, d]; [total, 3, h, d] where hq == hkv
enum class Layout : std::uint8_t { paged, ragged, contiguous, packed };
enum class PageOrder : std::uint8_t { nhd, hnd };
/// joint: one pool [pages, 2, ...]; split: K and V in two allocations.
enum class Pool : std::uint8_t { joint, split };
enum class MaskKind : std::uint8_t { none, causal, window, chunked, bits };
/// A scale is one host number, a tensor of one value, or a tensor of one value per KV head.
enum class ScaleKind : std::uint8_t { host, tensor, head };

/// Which keys j a query at position `pos = kv_len - q_len + i` sees.
struct Mask {
  MaskKind kind = MaskKind::none;
  std::int64_t left = -1;   ///< window: pos - left <= j; -1 is unbounded
  std::int64_t right = -1;  ///< window: j <= pos + right; -1 is unbounded
  std::int64_t chunk = 0;   ///< chunked: floor(pos / chunk) * chunk <= j <= pos

  bool operator==(const Mask&) const = default;
};

/// Everything that changes what is computed or which kernel can compute it. A plan accepts any
/// batch of at most `batch()` requests with at most `total_q()` query tokens, of which none is
/// longer than `max_q_len()` and `max_kv_len()`.
struct Problem {
  Layout layout = Layout::paged;
  PageOrder order = PageOrder::nhd;
  Pool pool = Pool::joint;
  std::int64_t page_size = 16;
  DType q = DType::bf16;
  DType kv = DType::bf16;
  DType out = DType::bf16;
  std::int64_t hq = 1;   ///< query heads
  std::int64_t hkv = 1;  ///< key and value heads; query head h reads head h / (hq / hkv)
  std::int64_t d = 64;   ///< head dim of q and k
  std::int64_t dv = 64;  ///< head dim of v and out
  Mask mask;
  std::optional<double> cap;    ///< soft cap: cap * tanh(s / cap) on scaled scores, before the mask
  std::optional<double> scale;  ///< softmax scale; 1 / sqrt(d) if absent
  ScaleKind q_scale = ScaleKind::host;
  ScaleKind k_scale = ScaleKind::host;
  ScaleKind v_scale = ScaleKind::host;
  ScaleKind out_scale = ScaleKind::host;
  bool sinks = false;      ///< one more logit per query head in the denominator
  bool alibi = false;      ///< slope * (j - pos) is added to the capped scores
  bool lse = false;        ///< also return the natural-log sum of exponentials [total_q, hq]
  bool invariant = false;  ///< a row's bits depend only on its q and on the keys it sees
  std::int64_t split = 0;  ///< tokens in a KV split; 0 is the library's choice
  /// Leading tokens that all requests with queries have in the same pages, and that come before
  /// their queries: whole pages, paged only. Kernels may compute them once for all requests.
  std::int64_t prefix = 0;
  std::vector<std::int64_t> q_len;
  std::vector<std::int64_t> kv_len;

  /// Throws Error(invalid_problem) that names the key and the value. Does not validate.
  static Problem parse(std::string_view text);
  /// The canonical line: `parse(p.to_string()) == p`.
  std::string to_string() const;

  std::int64_t batch() const { return static_cast<std::int64_t>(q_len.size()); }
  std::int64_t group() const { return hq / hkv; }
  std::int64_t total_q() const;
  std::int64_t max_q_len() const;
  std::int64_t max_kv_len() const;
  double softmax_scale() const;

  bool operator==(const Problem&) const = default;
};

/// Throws Error(invalid_problem) if the problem makes no sense on any device: the message names
/// the field, its value and the limit.
void validate(const Problem& problem);

}  // namespace octavo

template <>
struct std::hash<octavo::Problem> {
  std::size_t operator()(const octavo::Problem& problem) const {
    return std::hash<std::string>{}(problem.to_string());
  }
};
