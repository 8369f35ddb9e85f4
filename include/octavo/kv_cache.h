#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "octavo/append.h"
#include "octavo/arguments.h"
#include "octavo/executor.h"
#include "octavo/problem.h"
#include "octavo/stream.h"

namespace octavo {

/// What a cache holds. The fields that a problem has too mean the same there.
struct KvCacheConfig {
  std::int64_t pages = 0;       ///< of the pool: at most 2^31 - 1
  std::int64_t page_size = 16;  ///< tokens
  std::int64_t layers = 1;      ///< each has K and V of its own; all share one page table
  std::int64_t hkv = 1;
  std::int64_t d = 64;
  std::int64_t dv = 64;
  DType dtype = DType::bf16;
  PageOrder order = PageOrder::nhd;
  Pool pool = Pool::joint;
  /// What every query will see. Pages of tokens that no later query sees are given back: those
  /// before a causal window, or before the current chunk.
  Mask mask{MaskKind::causal};
  bool share_prefixes = true;
  std::string device = "cpu";  ///< whose memory holds it: `cpu` or `cuda:N`
  /// Of a GPU: where K and V are stored and shared pages copied, and where runs read them; or on
  /// another that waits for it.
  Stream stream{};

  /// That of a cache for a problem. Throws Error(invalid_problem) if it is not paged.
  static KvCacheConfig of(const Problem& problem, std::int64_t pages, std::int64_t layers = 1);
};

/// Names a request of a cache. No name is used twice.
using KvRequest = std::uint64_t;

/// The answer to a request.
struct KvAdmission {
  KvRequest request = 0;     ///< 0: refused
  std::int64_t cached = 0;   ///< leading tokens whose K and V are there already
  std::int64_t missing = 0;  ///< pages that it would need more than there are, if refused
};

/// How a cache stands, and what it did since it was made.
struct KvStatistics {
  std::int64_t pages = 0;     ///< of the pool: free + cached + in use
  std::int64_t free = 0;      ///< that hold nothing
  std::int64_t cached = 0;    ///< that no request uses, kept for prefixes to come
  std::int64_t in_use = 0;    ///< by one request or several
  std::int64_t requests = 0;  ///< that are not freed yet

  std::int64_t prompt_tokens = 0;  ///< of all requests that were admitted
  std::int64_t cached_tokens = 0;  ///< of those: found in the cache
  std::int64_t evictions = 0;      ///< cached pages that were given to others
  std::int64_t copies = 0;         ///< shared last pages that were copied before a write
  std::int64_t refusals = 0;       ///< for want of pages

  /// Share of the prompts' tokens that were found in the cache; 0 before the first.
  double hit_rate() const {
    return prompt_tokens == 0
               ? 0
               : static_cast<double>(cached_tokens) / static_cast<double>(prompt_tokens);
  }
};

/// What a run takes of some requests of a cache.
struct KvTables {
  std::vector<std::int32_t> page_ids;  ///< [requests, columns]; any page past a request's length
  std::int64_t columns = 0;
  std::vector<std::int32_t> kv_lens;  ///< [requests]: all tokens that were reserved

  PageTable page_table() const {
    return {page_ids.data(), static_cast<std::int64_t>(kv_lens.size()), columns, columns};
  }
};

/// A step's new K and V, in one layer.
struct KvAppend {
  std::int64_t layer = 0;
  std::span<const KvRequest> requests;  ///< each once
  /// [rows, hkv, d] and [rows, hkv, dv], of any dtypes: of each request in turn, all tokens that
  /// were reserved and not yet written in this layer.
  TensorView<3> k;
  TensorView<3> v;
  Scale k_scale{}, v_scale{};  ///< as in AppendArguments; attention takes the same
  std::optional<Rope> rope{};  ///< turns K before it is stored
};

/// A paged cache of keys and values for an engine. A step of it:
///
///     admit, reserve     pages for the tokens to come, or a refusal that changes nothing
///     append             their K and V into the pages, layer after layer
///     tables             what Plan::run takes: page table and lengths, the same in all layers
///
/// Requests that begin with the same tokens, and the same salt, share the pages that those fill.
/// A page can be found once the K and V of all its tokens are written in all layers, and stays when
/// its requests are gone until its room is needed: least recently used first. Tokens are compared,
/// never hashes alone.
///
/// Threads may share a cache: each function takes effect as a whole. That a request is used by one
/// thread at a time, and its pages not read while it is freed, is up to the caller.
///
/// Functions that take a request throw Error(invalid_argument) if it was freed or never was. What
/// throws or is refused has changed nothing; but after Error(device_error) a GPU's cache is lost.
class KvCache {
 public:
  /// A cache with memory of its own. Throws Error(invalid_argument) for a config that makes no
  /// sense, with the field. Of a GPU also Error(unavailable) where there is none, or neither code
  /// for it nor a compiler, and Error(device_error) where it has too little memory.
  explicit KvCache(const KvCacheConfig& config);
  /// A cache in the caller's memory, which outlives it: K and V of each layer [pages, page_size,
  /// hkv, d or dv], with any strides. `order` and `pool` of the config mean nothing then.
  KvCache(const KvCacheConfig& config, std::span<const KvView> k, std::span<const KvView> v);
  ~KvCache();
  KvCache(KvCache&&) noexcept;
  KvCache& operator=(KvCache&&) noexcept;

  const KvCacheConfig& config() const;
  KvView k(std::int64_t layer) const;
  KvView v(std::int64_t layer) const;

  /// A new request, with the pages of as many leading tokens of its prompt as the cache has: whole
  /// pages, and never all tokens, so that the last one gives logits. Of the tokens after those it
  /// reserves up to `tokens`; the others are reserved later. Requests of different salts (a LoRA
  /// adapter's name, an image's digest, a tenant) share nothing.
  KvAdmission admit(std::span<const std::int32_t> prompt, std::string_view salt = {},
                    std::int64_t tokens = kAllTokens);
  static constexpr std::int64_t kAllTokens = 0x7fffffff;

  /// Makes room for the request's next tokens. Returns how many pages are missing for that; 0 if it
  /// is done. A last page that other requests use too is copied first.
  [[nodiscard]] std::int64_t reserve(KvRequest request, std::span<const std::int32_t> tokens);
  /// The same for tokens that the cache is not told: their pages are found by no other request.
  [[nodiscard]] std::int64_t reserve_unnamed(KvRequest request, std::int64_t tokens);

  /// Stores K and V of tokens that were reserved: on the executor's threads, or on the GPU's
  /// stream, where K, V, the rotation and scales' values are in memory that the GPU reads.
  void append(const KvAppend& step, Executor& executor);
  void append(const KvAppend& step);

  /// Says that K and V of the request's first `tokens` tokens were written in all layers, by others
  /// than `append`, which says so itself.
  void mark_written(KvRequest request, std::int64_t tokens);

  /// A new request that holds the same tokens, in the same pages. All of them must be written.
  KvRequest fork(KvRequest request);
  /// Keeps the first `tokens` tokens of a request. Refuses to go back so far that the next query
  /// would see tokens whose pages the mask let go.
  void truncate(KvRequest request, std::int64_t tokens);
  /// Ends a request. Its full pages stay in the cache.
  void free(KvRequest request);

  std::int64_t length(KvRequest request) const;   ///< tokens that were reserved
  std::int64_t written(KvRequest request) const;  ///< tokens that are written in all layers
  KvTables tables(std::span<const KvRequest> requests) const;
  KvStatistics statistics() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace octavo
