#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "octavo/octavo.h"

namespace octavo::tests {

/// An engine of random weights: K and V of a token depend on all tokens before it, as a model's do.
/// It steps requests through a cache, and compares attention over the cache with attention over K
/// and V that it keeps for each request apart.
class ToyEngine {
 public:
  static constexpr std::int64_t kHq = 4;

  explicit ToyEngine(const KvCacheConfig& config);

  KvCache& cache() { return cache_; }

  /// Admits a prompt whole, or up to `tokens` of what is not cached.
  KvAdmission admit(const std::vector<std::int32_t>& prompt, const std::string& salt = "",
                    std::int64_t tokens = KvCache::kAllTokens);
  /// Reserves the next tokens; there must be room.
  void reserve(KvRequest request, const std::vector<std::int32_t>& tokens);
  KvRequest fork(KvRequest request);
  void truncate(KvRequest request, std::int64_t tokens);
  void free(KvRequest request);

  /// Appends what the requests have reserved, computes attention for it in every layer, and fails
  /// the test where that is not what contiguous K and V give, bit for bit.
  void step(const std::vector<KvRequest>& requests);

 private:
  enum class Kind { query, key, value };
  struct Request {
    std::string salt;
    std::vector<std::int32_t> tokens;
    std::int64_t done = 0;  ///< tokens that went through all layers
  };
  /// New rows of one kind in one layer, of many requests.
  std::vector<float> rows(const std::vector<KvRequest>& requests, Kind kind, std::int64_t layer,
                          bool from_start) const;
  std::vector<float> attend(const std::vector<KvRequest>& requests, std::int64_t layer,
                            std::vector<float>& q, const Arguments& keys,
                            const std::string& layout) const;
  void compare(const std::vector<KvRequest>& requests, std::int64_t layer);

  KvCacheConfig config_;
  KvCache cache_;
  std::map<KvRequest, Request> requests_;
};

}  // namespace octavo::tests
