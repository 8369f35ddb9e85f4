#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "octavo/kv_cache.h"

namespace octavo::tests {

/// What an operation came to.
struct Outcome {
  bool error = false;        ///< it made no sense
  std::int64_t missing = 0;  ///< it was refused for want of so many pages
  KvRequest request = 0;     ///< the new one
  std::int64_t cached = 0;
  std::int32_t copied_from = -1;
  std::int32_t copied_to = -1;

  bool operator==(const Outcome&) const = default;
};

/// The rules of kv::PageManager, by search through everything instead of by data structures.
class PageModel {
 public:
  struct Page {
    int users = 0;
    std::optional<std::int64_t> node;  ///< where it can be found; each publication another one
    std::int64_t before = 0;           ///< the node it is found after
    std::string salt;
    std::vector<std::int32_t> tokens;
    std::int64_t released = 0;  ///< when its last user left
  };
  struct Request {
    std::string salt;
    std::vector<std::int32_t> tokens;
    std::int64_t length = 0;
    std::int64_t written = 0;
    std::vector<std::int32_t> pages;  ///< -1: let go
    std::vector<std::int64_t> nodes;
  };

  explicit PageModel(const KvCacheConfig& config);

  Outcome admit(const std::vector<std::int32_t>& prompt, const std::string& salt,
                std::int64_t tokens);
  Outcome reserve(KvRequest name, std::int64_t count, const std::vector<std::int32_t>& tokens);
  Outcome mark_written(KvRequest name, std::int64_t tokens);
  Outcome fork(KvRequest name);
  Outcome truncate(KvRequest name, std::int64_t tokens);
  Outcome free(KvRequest name);

  const std::map<KvRequest, Request>& requests() const { return requests_; }
  KvStatistics statistics() const;
  /// The first token that a query after `length` tokens sees.
  std::int64_t first_seen(std::int64_t length) const;

 private:
  int find(std::int64_t before, const std::string& salt,
           const std::vector<std::int32_t>& tokens) const;
  bool alive(std::int64_t node) const;
  int available() const;
  std::int32_t take();
  void release(Request& request, std::int64_t begin, std::int64_t end);

  KvCacheConfig config_;
  std::vector<Page> pages_;
  std::vector<std::int32_t> free_;
  std::int64_t clock_ = 0;
  std::int64_t last_node_ = 0;
  KvRequest last_request_ = 0;
  std::map<KvRequest, Request> requests_;
  KvStatistics counts_;
};

}  // namespace octavo::tests
