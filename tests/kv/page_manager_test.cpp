#include "kv/page_manager.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "kv/page_model.h"
#include "octavo/error.h"

namespace octavo {

bool operator==(const KvStatistics& a, const KvStatistics& b) {
  const auto fields = [](const KvStatistics& s) {
    return std::vector{s.pages,         s.free,          s.cached,    s.in_use, s.requests,
                       s.prompt_tokens, s.cached_tokens, s.evictions, s.copies, s.refusals};
  };
  return fields(a) == fields(b);
}

}  // namespace octavo

namespace octavo::tests {
namespace {

std::uint64_t all_collide(std::uint64_t, std::span<const std::int32_t>) { return 0; }

std::uint64_t many_collide(std::uint64_t before, std::span<const std::int32_t> tokens) {
  return kv::hash_tokens(before, tokens) % 3;
}

struct Setting {
  std::string name;
  KvCacheConfig config;
  kv::TokenHash hash;
};

KvCacheConfig config_of(std::int64_t pages, std::int64_t page_size, Mask mask) {
  KvCacheConfig config;
  config.pages = pages;
  config.page_size = page_size;
  config.mask = mask;
  return config;
}

std::vector<Setting> settings() {
  const Mask causal{MaskKind::causal};
  const Mask window{MaskKind::window, 5, 0};
  const Mask chunked{MaskKind::chunked, -1, -1, 6};
  std::vector<Setting> all;
  for (const std::int64_t page_size : {1, 2, 4}) {
    const std::int64_t pages = 40 / page_size;
    const std::string size = std::to_string(page_size);
    all.push_back({"causal" + size, config_of(pages, page_size, causal), kv::hash_tokens});
    all.push_back({"collide" + size, config_of(pages, page_size, causal), all_collide});
    all.push_back({"window" + size, config_of(pages, page_size, window), many_collide});
    all.push_back({"chunked" + size, config_of(pages, page_size, chunked), many_collide});
  }
  all.push_back({"unshared", config_of(12, 3, causal), kv::hash_tokens});
  all.back().config.share_prefixes = false;
  return all;
}

/// The manager and the model through the same random operations, and a memory that shows what the
/// pages would hold.
class Walk {
 public:
  Walk(const Setting& setting, std::uint64_t seed)
      : random_(seed),
        page_size_(setting.config.page_size),
        manager_(setting.config, setting.hash),
        model_(setting.config),
        memory_(setting.config.pages * page_size_, 0) {}

  void step();
  const PageModel& model() const { return model_; }

 private:
  /// What a slot holds once K and V of a token are written: all tokens up to it, and the salt.
  using Contents = std::vector<std::uint64_t>;

  std::int64_t below(std::int64_t limit) {
    return static_cast<std::int64_t>(random_() % static_cast<std::uint64_t>(limit));
  }
  KvRequest some_request();
  std::vector<std::int32_t> some_tokens(std::int64_t count);
  static void expect(const Outcome& expected, const std::function<Outcome()>& operation);
  void admit();
  void reserve();
  void write();
  static void extend(Contents& contents, std::span<const std::int32_t> tokens);
  void compare() const;

  std::mt19937_64 random_;
  std::int64_t page_size_;
  kv::PageManager manager_;
  PageModel model_;
  Contents memory_;  ///< [pages, page_size]
  std::map<KvRequest, Contents> contents_;
  std::uint64_t secret_ = 1;
};

KvRequest Walk::some_request() {
  const auto& requests = model_.requests();
  if (requests.empty() || below(50) == 0) return static_cast<KvRequest>(below(20));
  return std::next(requests.begin(), below(static_cast<std::int64_t>(requests.size())))->first;
}

std::vector<std::int32_t> Walk::some_tokens(std::int64_t count) {
  std::vector<std::int32_t> tokens(count);
  for (std::int32_t& token : tokens) token = below(6) == 0 ? 1 : 0;
  return tokens;
}

void Walk::expect(const Outcome& expected, const std::function<Outcome()>& operation) {
  Outcome outcome;
  try {
    outcome = operation();
  } catch (const Error& error) {
    ASSERT_EQ(error.code(), ErrorCode::invalid_argument);
    outcome.error = true;
  }
  ASSERT_EQ(outcome.error, expected.error);
  ASSERT_EQ(outcome.missing, expected.missing);
  ASSERT_EQ(outcome, expected);
}

void Walk::extend(Contents& contents, std::span<const std::int32_t> tokens) {
  for (const std::int32_t token : tokens) {
    const std::uint64_t before = contents.empty() ? 0 : contents.back();
    contents.push_back(before * 0x100000001b3u + static_cast<std::uint64_t>(token) + 7);
  }
}

void Walk::admit() {
  const auto prompt = some_tokens(below(16));
  const std::string salt = below(4) == 0 ? "tenant" : "";
  const std::int64_t tokens = below(3) == 0 ? below(8) : KvCache::kAllTokens;
  const Outcome expected = model_.admit(prompt, salt, tokens);
  expect(expected, [&]() -> Outcome {
    const KvAdmission a = manager_.admit(prompt, salt, tokens);
    return {.missing = a.missing, .request = a.request, .cached = a.cached};
  });
  if (expected.request == 0) return;
  Contents contents;
  const PageModel::Request& request = model_.requests().at(expected.request);
  if (request.length > 0) {
    contents.push_back((salt.empty() ? 3u : 5u) + static_cast<std::uint64_t>(prompt[0]) * 1000);
    extend(contents, std::span(prompt).subspan(1, request.length - 1));
  }
  contents_[expected.request] = contents;
}

void Walk::reserve() {
  const KvRequest name = some_request();
  const bool told = below(8) != 0;
  const std::int64_t count = below(4) == 0 ? below(12) : below(3);
  const auto tokens = some_tokens(told ? count : 0);
  const bool first = model_.requests().contains(name) && model_.requests().at(name).length == 0;
  const Outcome expected = model_.reserve(name, count, tokens);
  expect(expected, [&]() -> Outcome {
    const kv::Reservation r =
        told ? manager_.reserve(name, tokens) : manager_.reserve_unnamed(name, count);
    Outcome outcome{.missing = r.missing};
    if (r.copy) {
      outcome.copied_from = r.copy->from;
      outcome.copied_to = r.copy->to;
    }
    return outcome;
  });
  if (expected.error || expected.missing > 0 || count == 0) return;
  if (expected.copied_to >= 0) {
    std::copy_n(memory_.begin() + expected.copied_from * page_size_, page_size_,
                memory_.begin() + expected.copied_to * page_size_);
  }
  Contents& contents = contents_[name];
  const bool all_told = static_cast<std::int64_t>(model_.requests().at(name).tokens.size()) ==
                        model_.requests().at(name).length;
  if (!all_told) {  // nobody else has such contents
    for (std::int64_t i = 0; i < count; ++i) contents.push_back(++secret_ << 32);
  } else if (first) {
    const std::string& salt = model_.requests().at(name).salt;
    contents.push_back((salt.empty() ? 3u : 5u) + static_cast<std::uint64_t>(tokens[0]) * 1000);
    extend(contents, std::span(tokens).subspan(1));
  } else {
    extend(contents, tokens);
  }
}

void Walk::write() {
  const KvRequest name = some_request();
  std::int64_t tokens = below(3);
  if (model_.requests().contains(name)) {
    const PageModel::Request& request = model_.requests().at(name);
    if (below(4) != 0) tokens = request.length - (below(4) == 0 ? 1 : 0);
    for (std::int64_t j = request.written; j < std::min(tokens, request.length); ++j) {
      memory_[request.pages[j / page_size_] * page_size_ + j % page_size_] = contents_[name][j];
    }
  }
  expect(model_.mark_written(name, tokens), [&]() -> Outcome {
    manager_.mark_written(name, tokens);
    return {};
  });
}

void Walk::step() {
  const std::int64_t kind = below(16);
  const KvRequest name = some_request();
  if (kind < 3) {
    admit();
  } else if (kind < 8) {
    reserve();
  } else if (kind < 12) {
    write();
  } else if (kind == 12) {
    const Outcome expected = model_.fork(name);
    if (expected.request != 0) contents_[expected.request] = contents_[name];
    expect(expected, [&]() -> Outcome { return {.request = manager_.fork(name)}; });
  } else if (kind == 13) {
    const std::int64_t length =
        model_.requests().contains(name) ? model_.requests().at(name).length : 1;
    const std::int64_t tokens = below(2) == 0 ? length - below(3) : below(length + 2);
    const Outcome expected = model_.truncate(name, tokens);
    if (!expected.error) contents_[name].resize(tokens);
    expect(expected, [&]() -> Outcome {
      manager_.truncate(name, tokens);
      return {};
    });
  } else {
    if (kind == 14 && model_.statistics().free > 4) return step();  // stay near the limit
    expect(model_.free(name), [&]() -> Outcome {
      manager_.free(name);
      return {};
    });
    contents_.erase(name);
  }
  if (!testing::Test::HasFatalFailure()) compare();
}

void Walk::compare() const {
  ASSERT_TRUE(manager_.statistics() == model_.statistics());
  for (const auto& [name, request] : model_.requests()) {
    ASSERT_EQ(manager_.length(name), request.length);
    ASSERT_EQ(manager_.written(name), request.written);
    const auto pages = manager_.pages(name);
    ASSERT_TRUE(std::ranges::equal(pages, request.pages)) << "request " << name;
    const Contents& contents = contents_.at(name);
    for (std::int64_t j = model_.first_seen(request.written); j < request.written; ++j) {
      const std::int32_t page = pages[j / page_size_];
      ASSERT_GE(page, 0) << "request " << name << ", token " << j;
      ASSERT_EQ(memory_[page * page_size_ + j % page_size_], contents[j])
          << "request " << name << ", token " << j;
    }
  }
}

class PageManagerWalk : public testing::TestWithParam<Setting> {};

// 13 settings: 1,040,000 operations.
TEST_P(PageManagerWalk, DoesAsTheModel) {
  constexpr int kOperations = 80'000;
  Walk walk(GetParam(), 1);
  for (int i = 0; i < kOperations; ++i) {
    walk.step();
    if (HasFatalFailure()) FAIL() << "at operation " << i;
  }
  const KvStatistics s = walk.model().statistics();  // it came to all that there is to test
  EXPECT_GT(s.refusals, kOperations / 1000);
  EXPECT_GT(s.copies + (GetParam().config.page_size == 1 ? kOperations : 0), kOperations / 1000);
  if (GetParam().config.share_prefixes) {
    EXPECT_GT(s.evictions, kOperations / 100);
    EXPECT_GT(s.hit_rate(), 0.05);
  }
}

INSTANTIATE_TEST_SUITE_P(Settings, PageManagerWalk, testing::ValuesIn(settings()),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace octavo::tests
