#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "kv/page_pool.h"
#include "kv/prefix_index.h"
#include "octavo/kv_cache.h"

namespace octavo::kv {

/// A page whose contents must be copied before anything is written to the other.
struct PageCopy {
  std::int32_t from;
  std::int32_t to;
};

/// The answer to `reserve`.
struct Reservation {
  std::int64_t missing = 0;        ///< pages; 0: done
  std::optional<PageCopy> copy{};  ///< to do before the request's new tokens are written
};

/// Which pages hold which tokens of which request. Knows no memory. See KvCache for what its
/// functions mean; threads must take turns.
class PageManager {
 public:
  /// Throws Error(invalid_argument) for sizes out of range.
  explicit PageManager(const KvCacheConfig& config, TokenHash hash = hash_tokens);

  KvAdmission admit(std::span<const std::int32_t> prompt, std::string_view salt,
                    std::int64_t tokens);
  Reservation reserve(KvRequest name, std::span<const std::int32_t> tokens);
  Reservation reserve_unnamed(KvRequest name, std::int64_t tokens);
  void mark_written(KvRequest name, std::int64_t tokens);
  KvRequest fork(KvRequest name);
  void truncate(KvRequest name, std::int64_t tokens);
  void free(KvRequest name);

  std::int64_t length(KvRequest request) const { return find(request).length; }
  std::int64_t written(KvRequest request) const { return find(request).written; }
  /// Page ids by column; PrefixIndex::kNone where the mask let a page go.
  std::span<const std::int32_t> pages(KvRequest request) const { return find(request).pages; }
  KvStatistics statistics() const;

 private:
  struct Request {
    std::string salt;
    std::vector<std::int32_t> tokens;  ///< the leading ones that the cache was told
    std::int64_t length = 0;           ///< tokens that have room
    std::int64_t written = 0;
    std::vector<std::int32_t> pages;
    std::int64_t first_kept = 0;  ///< columns before it were let go
    std::vector<Link> links;      ///< of the full pages that were written and told
  };

  const Request& find(KvRequest request) const;
  Request& find(KvRequest request);
  std::vector<std::int32_t> cached_prefix(std::span<const std::int32_t> prompt,
                                          std::string_view salt) const;
  Reservation extend(Request& request, std::int64_t tokens);
  std::int64_t pages_for(std::int64_t tokens) const;
  std::int64_t first_seen_column(std::int64_t tokens) const;
  std::int32_t take_page();
  void drop_pages(Request& request, std::int64_t begin, std::int64_t end);
  void publish(Request& request);

  std::int64_t page_size_;
  Mask mask_;
  bool share_prefixes_;
  PagePool pool_;
  PrefixIndex index_;
  KvRequest last_request_ = 0;
  std::unordered_map<KvRequest, Request> requests_;
  KvStatistics counts_;
};

}  // namespace octavo::kv
