#include <gtest/gtest.h>

#include <atomic>
#include <random>
#include <thread>
#include <vector>

#include "octavo/kv_cache.h"

namespace octavo::tests {
namespace {

/// One user of a cache that others use too: requests of a few texts, each token's K and V equal to
/// the token.
class User {
 public:
  User(KvCache& cache, unsigned seed) : cache_(cache), random_(seed) {}

  /// A request's life. Returns whether all its pages held what they should.
  bool live();
  std::int64_t admitted() const { return admitted_; }

 private:
  void write(KvRequest request, std::span<const std::int32_t> tokens);
  bool check(KvRequest request, std::span<const std::int32_t> tokens) const;
  bool grow(KvRequest request, std::vector<std::int32_t>& tokens);

  KvCache& cache_;
  std::mt19937 random_;
  std::int64_t admitted_ = 0;
};

void User::write(KvRequest request, std::span<const std::int32_t> tokens) {
  const auto count = static_cast<std::int64_t>(tokens.size());
  std::vector<float> rows(tokens.begin(), tokens.end());
  ThreadPool alone(1);
  KvAppend step;
  step.requests = {&request, 1};
  step.k = step.v = TensorView<3>::dense(rows.data(), DType::f32, {count, 1, 1});
  cache_.append(step, alone);
}

bool User::check(KvRequest request, std::span<const std::int32_t> tokens) const {
  const KvTables tables = cache_.tables({&request, 1});
  const KvView k = cache_.k(0);
  if (tables.kv_lens[0] != static_cast<std::int32_t>(tokens.size())) return false;
  for (std::int64_t j = 0; j < tables.kv_lens[0]; ++j) {
    const std::int64_t page = tables.page_ids[j / k.shape[1]];
    const float* at =
        static_cast<const float*>(k.data) + page * k.stride[0] + j % k.shape[1] * k.stride[1];
    if (*at != static_cast<float>(tokens[j])) return false;
  }
  return true;
}

/// A token more, where there is room.
bool User::grow(KvRequest request, std::vector<std::int32_t>& tokens) {
  const std::vector<std::int32_t> next{static_cast<std::int32_t>(random_() % 1000)};
  if (cache_.reserve(request, next) > 0) return true;
  tokens.push_back(next[0]);
  write(request, next);
  return check(request, tokens);
}

bool User::live() {
  std::vector<std::int32_t> tokens(8 + random_() % 8);
  const auto text = static_cast<std::int32_t>(random_() % 3) * 100;
  for (std::size_t i = 0; i < tokens.size(); ++i) tokens[i] = text + static_cast<std::int32_t>(i);
  const KvAdmission admission = cache_.admit(tokens);
  if (admission.request == 0) return true;
  ++admitted_;
  const KvRequest request = admission.request;
  write(request, std::span(tokens).subspan(admission.cached));
  bool right = check(request, tokens);
  for (int i = 0; i < 3; ++i) right = grow(request, tokens) && right;
  const KvRequest child = cache_.fork(request);
  std::vector<std::int32_t> child_tokens = tokens;
  right = grow(child, child_tokens) && grow(request, tokens) && right;
  cache_.truncate(request, static_cast<std::int64_t>(tokens.size()) - 2);
  tokens.resize(tokens.size() - 2);
  cache_.free(child);
  right = grow(request, tokens) && right;
  cache_.free(request);
  return right;
}

// Under ThreadSanitizer this also shows that calls need no lock of the caller's.
TEST(KvCacheThreads, ShareACache) {
  KvCacheConfig config;
  config.pages = 24;
  config.page_size = 4;
  config.d = config.dv = 1;
  config.dtype = DType::f32;
  KvCache cache(config);
  std::atomic<int> wrong{0};
  std::atomic<std::int64_t> admitted{0};
  std::vector<std::thread> threads;
  for (unsigned seed = 0; seed < 4; ++seed) {
    threads.emplace_back([&, seed] {
      User user(cache, seed);
      for (int i = 0; i < 300; ++i) wrong += user.live() ? 0 : 1;
      admitted += user.admitted();
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0);
  EXPECT_GT(admitted, 600);
  const KvStatistics s = cache.statistics();
  EXPECT_EQ(s.requests, 0);
  EXPECT_EQ(s.in_use, 0);
  EXPECT_GT(s.cached_tokens, 0);
  EXPECT_GT(s.copies, 0);
}

}  // namespace
}  // namespace octavo::tests
